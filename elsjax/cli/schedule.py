"""Noise schedules as words of the command line."""

import dataclasses

from elsjax.process.schedules import SCHEDULES, Schedule


def parse_schedule(text: str) -> Schedule:
    """The noise schedule that an option asks for.

    Args:
      text: a name of `SCHEDULES`, with values of its arguments after it if they are not to be the
        defaults, such as `linear,beta_last=0.03,num_steps=500`.

    Returns:
      The schedule.

    Raises:
      ValueError: if there is no such schedule, or it has no such arguments.
    """
    name, *words = (word.strip() for word in text.split(","))
    if name not in SCHEDULES:
        raise ValueError(
            f"schedule={text!r} is not known; expected one of {', '.join(SCHEDULES)}, with "
            "parameters after commas if any, as in cosine,offset=0.008"
        )
    known = [field.name for field in dataclasses.fields(SCHEDULES[name])]  # type: ignore[arg-type]
    values: dict[str, float] = {}
    for word in words:
        parameter, _, value = (part.strip() for part in word.partition("="))
        if parameter not in known:
            raise ValueError(
                f"schedule={text!r}: {parameter!r} is no parameter of {name}; expected "
                f"{', '.join(f'{one}=NUMBER' for one in known)}"
            )
        if parameter in values:
            raise ValueError(f"schedule={text!r}: {parameter} is given twice; expected it once")
        try:
            values[parameter] = _number(value)
        except ValueError as error:
            raise ValueError(f"schedule={text!r}: {parameter}={value!r} is not a number") from error
    try:
        return SCHEDULES[name](**values)
    except ValueError as error:
        raise ValueError(f"schedule={text!r}: {error}") from error


def _number(text: str) -> float:
    """An integer where the text is one, else a float."""
    try:
        return int(text)
    except ValueError:
        return float(text)
