"""Words for what a person reads."""


def counted(number: int, word: str) -> str:
    """Says how many there are of something.

    >>> counted(1, "file"), counted(2, "file")
    ('1 file', '2 files')
    """
    return f"{number} {word if number == 1 else f'{word}s'}"
