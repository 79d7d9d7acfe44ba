"use strict";
// The sample browser. Columns are unpacked when the section comes near; a card's tokens only when it is shown.
// Completions are untrusted text: everything goes into the page as text nodes, never as markup.

const Samples = (() => {
  const PAGE = 20;
  const PER_COLUMN = 6;
  const section = document.getElementById("samples");
  if (!section) return { start() {}, compare() {} };
  const form = document.getElementById("filters");
  const cards = document.getElementById("cards");
  const more = document.getElementById("more");
  const found = document.getElementById("found");
  const scale = document.getElementById("scale");
  const { sources, verdicts, codes } = readJson("data-sources");
  const MARKS = { correct: "\u2713 right", wrong: "\u2717 wrong", undecided: "? undecided", "not graded": "not graded" };
  let blocks = null;
  let rows = [];
  let shown = 0;
  let loading = null;

  // ---- data

  async function loadBlock(node) {
    const packed = JSON.parse(node.textContent);
    const names = Object.keys(packed);
    const columns = await Promise.all(names.map((name) => unpack(packed[name])));
    const block = Object.fromEntries(names.map((name, index) => [name, columns[index]]));
    block.starts = new Uint32Array(block.length.length + 1);
    block.length.forEach((length, row) => (block.starts[row + 1] = block.starts[row] + length));
    block.differing = new Map();
    (block.differing_row || []).forEach((row, index) => block.differing.set(row, block.differing_text[index]));
    block.lowerPrompts = block.prompt.map((text, index) => `${block.problem_id[index]}\n${text}`.toLowerCase());
    block.texts = [];
    return block;
  }

  function load() {
    loading ||= (async () => {
      if (document.readyState === "loading") await new Promise((done) => addEventListener("DOMContentLoaded", done));
      blocks = await Promise.all([...document.querySelectorAll(".data-samples")].map(loadBlock));
      update();
    })().catch((error) => (found.textContent = `No completions: ${error.message}.`));
    return loading;
  }

  function textOf(block, row) {
    if (block.text) return block.text[row];
    if (block.differing.has(row)) return block.differing.get(row);
    if (block.texts[row] === undefined) {
      let text = "";
      for (let at = block.starts[row]; at < block.starts[row + 1]; at++) {
        const token = block.token[at];
        if (!block.token_special[token]) text += block.token_text[token];
      }
      block.texts[row] = text;
    }
    return block.texts[row];
  }

  function logprob(code) {
    return code === codes.unknown ? NaN : -codes.finest * Math.expm1(code / codes.scale);
  }

  // ---- filters

  function settings() {
    const values = new FormData(form);
    const number = (name, other) => (values.get(name) === "" ? other : Number(values.get(name)));
    return {
      source: values.get("source"),
      problem: values.get("problem").trim().toLowerCase(),
      text: values.get("text").toLowerCase(),
      verdict: values.get("verdict"),
      from: number("from", 0),
      to: number("to", Infinity),
      order: values.get("order"),
      colouring: values.get("colouring"),
      view: values.get("view"),
    };
  }

  function accepts(name, source) {
    if (name === "all") return true;
    const [kind, value] = [name.slice(0, 1), name.slice(2)];
    if (kind === "k") return source.kind === value;
    return kind === "a" ? source.arm === value : source.label === value;
  }

  function matching(wanted) {
    const allowed = sources.map((source) => accepts(wanted.source, source));
    const result = [];
    blocks.forEach((block, number) => {
      const problems = block.lowerPrompts.map((text) => text.includes(wanted.problem));
      for (let row = 0; row < block.length.length; row++) {
        if (!allowed[block.source[row]] || !problems[block.problem[row]]) continue;
        const step = block.step[row];
        if (step < wanted.from || step > wanted.to) continue;
        if (wanted.verdict !== "all" && block.verdict[row] !== Number(wanted.verdict)) continue;
        if (wanted.text && !textOf(block, row).toLowerCase().includes(wanted.text)) continue;
        result.push([number, row]);
      }
    });
    return result;
  }

  const ORDERS = {
    newest: (block, row) => -block.step[row],
    oldest: (block, row) => block.step[row],
    surprising: (block, row) => block.reference_sum[row],
    apart: (block, row) => -Math.abs(block.policy_sum[row] - block.reference_sum[row]),
    longest: (block, row) => -block.length[row],
  };

  function sorted(list, order) {
    const keys = new Map(list.map((pair) => {
      const key = ORDERS[order](blocks[pair[0]], pair[1]);
      return [pair, Number.isNaN(key) ? Infinity : key];
    }));
    return list.sort((left, right) => keys.get(left) - keys.get(right));  // stable: equal keys keep their order
  }

  // ---- colours

  // One hue, stronger the less likely; for differences two: the policy prefers more, or less.
  function background(policy, reference, colouring) {
    if (colouring === "none") return "";
    if (colouring === "difference") {
      const gap = policy - reference;
      if (Number.isNaN(gap)) return "";
      const strength = Math.min(1, Math.abs(gap) / 4) ** 0.6;
      const name = gap > 0 ? "task" : "sharpening";
      return strength < 0.06 ? "" : `color-mix(in srgb, var(--${name}) ${Math.round(52 * strength)}%, transparent)`;
    }
    const value = colouring === "policy" ? policy : reference;
    if (Number.isNaN(value)) return "";
    const strength = Math.min(1, -value / 5) ** 0.6;
    return strength < 0.06 ? "" : `color-mix(in srgb, var(--tempered) ${Math.round(60 * strength)}%, transparent)`;
  }

  function showScale(colouring) {
    scale.replaceChildren();
    if (colouring === "none") return;
    const steps = colouring === "difference" ? [-4, -2, -0.5, 0, 0.5, 2, 4] : [0, -0.1, -0.5, -1, -2, -5];
    const words = {
      policy: "log p under the policy:",
      reference: "log p under the base:",
      difference: "log p under the policy minus under the base:",
    };
    scale.append(words[colouring]);
    for (const step of steps) {
      const chip = element("span", { textContent: step > 0 ? `+${step}` : `${step}`.replace("-", "\u2212") });
      chip.style.background = background(step, colouring === "difference" ? 0 : step, colouring);
      scale.append(chip);
    }
    scale.append("nats");
  }

  // ---- cards

  function signed(value, digits = 2) {
    return Number.isNaN(value) ? "?" : value.toFixed(digits).replace("-", "\u2212");
  }

  function precise(value) {
    if (Number.isNaN(value)) return "not scored";
    return (Math.abs(value) < 0.01 ? value.toPrecision(2) : value.toFixed(3)).replace("-", "\u2212");
  }

  function tokens(block, row, colouring) {
    const body = element("pre", {});
    const start = block.starts[row];
    if (block.length[row] > 150) body.className = "tall";
    if (!block.token || block.differing.has(row)) {
      body.textContent = textOf(block, row) || "(empty)";
      if (!block.token) return body;
    } else if (colouring === "none" || !block.length[row]) {
      body.textContent = textOf(block, row) || "(empty)";
      return body;
    }
    if (block.differing.has(row)) return body;
    const parts = document.createDocumentFragment();
    for (let at = start; at < block.starts[row + 1]; at++) {
      const token = block.token[at];
      const span = element("span", { className: "token", textContent: block.token_text[token] });
      if (block.token_special[token]) span.className = "token special";
      span.dataset.at = at;
      span.style.background = background(logprob(block.policy[at]), logprob(block.reference[at]), colouring);
      parts.append(span);
    }
    body.append(parts);
    return body;
  }

  function card([number, row], colouring, isBeside) {
    const block = blocks[number];
    const source = sources[block.source[row]];
    const verdict = verdicts[block.verdict[row]];
    const header = element("header", {});
    const say = (text) => header.append(element("span", { textContent: text }));
    if (!isBeside) header.append(element("b", {}, swatch(source.colour), source.label));
    header.append(element("span", { className: verdict.replace(" ", "-"), textContent: MARKS[verdict] }));
    say(`step ${block.step[row]}${source.kind === "held-out" ? ", held-out" : ""}`);
    if (!isBeside) {
      const pick = element("button", { type: "button", className: "link", title: "Side by side in all runs" });
      pick.textContent = block.problem_id[block.problem[row]];
      pick.dataset.problem = pick.textContent;
      header.append(pick);
    }
    say(`sample ${block.sample[row]}`);
    say(`${block.length[row]} tokens${block.finish[row] === 1 ? ", cut off" : ""}`);
    say(`log p: policy ${signed(block.policy_sum[row])}, base ${signed(block.reference_sum[row])}`);
    if (!Number.isNaN(block.reward[row])) say(`reward ${signed(block.reward[row])}, advantage ${signed(block.advantage[row])}`);
    const made = element("article", { className: "sample" }, header);
    if (!isBeside) {
      made.append(element("pre", { className: "prompt", textContent: block.prompt[block.problem[row]] }));
      if (block.prompt[block.problem[row]].length > 600) made.lastChild.classList.add("tall");
    }
    made.append(tokens(block, row, colouring), element("p", { className: "readout" }));
    made.dataset.block = number;
    return made;
  }

  function swatch(colour) {
    const made = element("span", { className: "swatch", ariaHidden: "true" });
    made.style.setProperty("--c", `var(--${colour})`);
    return made;
  }

  function readout(event) {
    const token = event.target.closest?.(".token");
    if (!token) return;
    const article = token.closest(".sample");
    const block = blocks[Number(article.dataset.block)];
    const at = Number(token.dataset.at);
    const [policy, reference] = [logprob(block.policy[at]), logprob(block.reference[at])];
    cards.querySelectorAll(".token.on").forEach((each) => each.classList.remove("on"));
    token.classList.add("on");
    const gap = Number.isNaN(policy - reference) ? "" : `, difference ${precise(policy - reference)}`;
    article.querySelector(".readout").textContent =
      `${JSON.stringify(token.textContent)}: policy ${precise(policy)}, base ${precise(reference)}${gap}`;
  }

  // ---- views

  function showMore() {
    const { colouring } = settings();
    const next = rows.slice(shown, shown + PAGE);
    cards.append(...next.map((pair) => card(pair, colouring, false)));
    shown += next.length;
    more.hidden = shown >= rows.length;
  }

  function showList(wanted) {
    rows = sorted(rows, wanted.order);
    shown = 0;
    cards.className = "";
    cards.replaceChildren();
    showMore();
  }

  // The problem with the most completions of different runs among those found, in a column for each run.
  function showBeside(wanted) {
    more.hidden = true;
    const byProblem = new Map();
    for (const pair of rows) {
      const id = blocks[pair[0]].problem_id[blocks[pair[0]].problem[pair[1]]];
      if (!byProblem.has(id)) byProblem.set(id, []);
      byProblem.get(id).push(pair);
    }
    cards.className = "";
    cards.replaceChildren();
    if (!byProblem.size) return;
    const exact = [...byProblem.keys()].find((id) => id.toLowerCase() === wanted.problem);
    const width = (pairs) => new Set(pairs.map(([number, row]) => sources[blocks[number].source[row]].label)).size;
    const ids = [...byProblem.keys()];
    const chosen = exact ?? ids.reduce((best, id) => {
      const [one, other] = [byProblem.get(id), byProblem.get(best)];
      const difference = width(one) - width(other) || one.length - other.length;
      return difference > 0 ? id : best;
    }, ids[0]);
    const pairs = sorted(byProblem.get(chosen), wanted.order);
    const [first] = pairs;
    const title = element("h3", { textContent: chosen });
    cards.append(title, element("pre", { className: "prompt", textContent: blocks[first[0]].prompt[blocks[first[0]].problem[first[1]]] }));
    if (byProblem.size > 1) {
      const others = ids.filter((id) => id !== chosen).sort((a, b) => width(byProblem.get(b)) - width(byProblem.get(a)));
      const picker = element("select", { ariaLabel: "Another problem" });
      picker.append(element("option", { value: "", textContent: `another of the ${byProblem.size} problems found` }));
      others.slice(0, 200).forEach((id) => picker.append(element("option", { value: id, textContent: id })));
      picker.addEventListener("change", () => picker.value && compare(picker.value));
      cards.append(picker);
    }
    const columns = new Map();
    for (const pair of pairs) {
      const source = sources[blocks[pair[0]].source[pair[1]]];
      if (!columns.has(source.label)) columns.set(source.label, { source, pairs: [] });
      columns.get(source.label).pairs.push(pair);
    }
    const order = [...new Set(sources.map((source) => source.label))];
    const sorter = [...columns.values()].sort((a, b) => order.indexOf(a.source.label) - order.indexOf(b.source.label));
    const grid = element("div", { className: "beside", tabIndex: 0, role: "group", ariaLabel: `${chosen} in each run` });
    grid.append(...sorter.map((each) => column(each, wanted.colouring)));
    cards.append(grid);
  }

  function column({ source, pairs }, colouring) {
    const right = pairs.filter(([number, row]) => verdicts[blocks[number].verdict[row]] === "correct").length;
    const made = element("div", {}, element("h4", {}, swatch(source.colour), source.label));
    made.append(element("p", { className: "tally", textContent: `${right} of ${pairs.length} right` }));
    made.append(...pairs.slice(0, PER_COLUMN).map((pair) => card(pair, colouring, true)));
    if (pairs.length > PER_COLUMN) {
      const rest = element("button", { type: "button", textContent: `${pairs.length - PER_COLUMN} more` });
      rest.addEventListener("click", () => rest.replaceWith(...pairs.slice(PER_COLUMN).map((pair) => card(pair, colouring, true))));
      made.append(rest);
    }
    return made;
  }

  function update() {
    if (!blocks) return;
    const wanted = settings();
    rows = matching(wanted);
    const right = rows.filter(([number, row]) => verdicts[blocks[number].verdict[row]] === "correct").length;
    const share = rows.length ? `, ${right.toLocaleString("en")} of them right` : "; clear a filter";
    found.textContent = `${rows.length.toLocaleString("en")} found${share}`;
    showScale(wanted.colouring);
    wanted.view === "beside" ? showBeside(wanted) : showList(wanted);
    section.dataset.found = rows.length;
  }

  async function compare(problem) {
    form.problem.value = problem;
    form.elements.view.value = "beside";
    await load();
    update();
    section.scrollIntoView();
  }

  function fillSelects() {
    const select = form.source;
    const add = (parent, value, textContent) => parent.append(element("option", { value, textContent }));
    add(select, "all", "all runs");
    const kinds = [...new Set(sources.map((source) => source.kind))];
    if (kinds.length > 1) kinds.forEach((kind) => add(select, `k:${kind}`, `all, ${kind} problems`));
    const arms = [...new Set(sources.map((source) => source.arm))];
    const labels = [...new Set(sources.map((source) => source.label))];
    const group = (label, prefix, names) => {
      const made = element("optgroup", { label });
      names.forEach((name) => add(made, `${prefix}:${name}`, name));
      select.append(made);
    };
    if (arms.length < labels.length) group("Regimes", "a", arms);
    group("Runs", "r", labels);
    add(form.verdict, "all", "all");
    verdicts.forEach((name, number) => add(form.verdict, String(number), MARKS[name]));
  }

  function start() {
    fillSelects();
    let typed;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      clearTimeout(typed);
      typed = setTimeout(update, 180);
    });
    form.addEventListener("reset", () => setTimeout(update));
    more.addEventListener("click", showMore);
    cards.addEventListener("pointerover", readout);
    cards.addEventListener("click", readout);
    document.addEventListener("click", (event) => {
      const problem = event.target.dataset?.problem;
      if (problem !== undefined) compare(problem);
    });
    new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && load(), {
      rootMargin: "1500px",
    }).observe(section);
  }

  return { start, compare };
})();
