from ..spec import Refusal


def portable(source):
    return Refusal("not yet")
