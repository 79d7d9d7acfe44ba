"""Every error that rlsys raises on purpose. The command line turns each into one line and an exit code."""


class RlsysError(Exception):
    """A failure whose message is meant for the person at the terminal. Exit code 1."""

    exit_code = 1


class ConfigError(RlsysError):
    """The configuration or the command line cannot be carried out as written. Exit code 2."""

    exit_code = 2


class DataError(RlsysError):
    """A dataset row or file is unusable; the message names file, row and field. Exit code 2."""

    exit_code = 2


class RunDirError(RlsysError):
    """The run directory is not in the state that the command needs. Exit code 2."""

    exit_code = 2


class RolloutError(RlsysError):
    """The engines could not produce the rollouts of a step."""


class ScoringError(RlsysError):
    """A scorer or grader did not answer as its protocol promises."""


class LearnerError(RlsysError):
    """The learner failed in its work: a non-finite loss, a state that does not load."""


class ActorLostError(RlsysError):
    """An actor died. Engines and graders are replaced by their pools; any other: on from the last checkpoint."""


class WeightSyncError(RlsysError):
    """An engine does not hold, or does not compute with, the weights that the learner published."""


class DeadlineError(RlsysError):
    """A wait ran out of time; the message names who was waited for, at which step, and for how long."""
