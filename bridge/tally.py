"""How row level security has been judged, in numbers. It outlives the connections that judge."""


class Tally:
    def __init__(self) -> None:
        self.joined_rows = 0
        """How many rows were judged by a join."""
        self.single_decisions = 0
        """How many rows times claims were asked for by themselves."""
        self.ways: dict[tuple[str, str, str], str | None] = {}
        """By schema, table and role with enough claims for a join: why there is none; None: there is one."""
