"""Code is hashed by meaning: comments, layout and docstrings do not count, everything else does."""

import ast

import pytest

from stages.pipeline import code

BASE = '''"""Doc."""
import math


def area(r: float) -> float:
    """Of a circle."""
    return math.pi * r**2  # plain
'''


def fingerprint(tmp_path, text):
    file = tmp_path / "x.py"
    file.write_text(text)
    return code.Code(tmp_path).fingerprint(file.name)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# plain", "# other", True),
        ('"""Of a circle."""', '"""Of a disc."""', True),
        ("\n\n\n", "\n\n\n\n", True),
        ("r**2", "r**3", False),
        ("r**2", "r**2.0", False),
        ("-> float", "-> int", False),
        ("import math", "import cmath as math", False),
    ],
)
def test_meaning(tmp_path, old, new, same):
    assert old in BASE
    assert (fingerprint(tmp_path, BASE) == fingerprint(tmp_path, BASE.replace(old, new))) is same


def test_the_walk_does_not_depend_on_the_python_version():
    """A golden value: the same source must hash equally wherever the project runs (it does from 3.10 to 3.13)."""
    assert code.meaning(ast.parse("x = 'a'")) == [
        "Module",
        [["body", [["Assign", [["targets", [["Name", [["id", ["str", "'x'"]], ["ctx", ["Store", []]]]]]],
                               ["value", ["Constant", [["value", ["str", "'a'"]]]]]]]]]],
    ]  # fmt: skip


def test_closure_follows_every_kind_of_import(tmp_path):
    files = {
        "stages/__init__.py": "",
        "stages/a.py": "from stages.lib import b\ndef f():\n    import stages.lib.c\n",
        "stages/lib/__init__.py": "",
        "stages/lib/b.py": "from stages.lib.d import name\n",
        "stages/lib/c.py": "",
        "stages/lib/d.py": "name = 1\n",
        "stages/lib/d.html": "<p>",
        "stages/lib/unused.py": "",
        "stages/pipeline/tracking.py": "",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    expected = sorted(set(files) - {"stages/lib/unused.py", "stages/pipeline/tracking.py"})
    assert code.Code(tmp_path).closure(["stages/a.py"]) == expected


def test_versions_come_from_the_pins(tmp_path):
    (tmp_path / "constraints.txt").write_text("numpy==1.2.3\nscikit-learn==4.5\n")
    (tmp_path / "a.py").write_text("import json\nimport numpy as np\nfrom sklearn import svm\nimport tqdm\n")
    assert code.Code(tmp_path).versions(["a.py"]) == {"numpy": "1.2.3", "scikit-learn": "4.5"}


def test_an_unpinned_library_is_named(tmp_path):
    (tmp_path / "constraints.txt").write_text("")
    (tmp_path / "a.py").write_text("import numpy\n")
    with pytest.raises(ValueError, match="add numpy==VERSION"):
        code.Code(tmp_path).versions(["a.py"])
