"""The table of mistakes that tests must notice fits the code: one that is nowhere any more proves nothing."""

import tomllib

from tests.mutate import ROOT, TABLE


def test_each_mistake_is_one_that_the_code_can_still_make():
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))["mistake"]
    assert len(table) > 250
    names = [one["name"] for one in table]
    assert len(set(names)) == len(names)
    for one in table:
        text = (ROOT / one["file"]).read_text(encoding="utf-8")
        assert text.count(one["old"]) == 1, f"{one['name']}: repoint it in {TABLE.name}"
        assert one["new"] != one["old"]
        assert (ROOT / one["tests"].split()[0]).is_file(), one["name"]
