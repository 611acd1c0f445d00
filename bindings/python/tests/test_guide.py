"""The listings of docs/python.md do what the page says."""
import pathlib
import re
import unittest

GUIDE = pathlib.Path(__file__).resolve().parents[3] / "docs" / "python.md"


class Guide(unittest.TestCase):
    def test_its_listings_run_in_their_order(self):
        text = GUIDE.read_text()
        names = {"__name__": "guide"}
        count = 0
        for found in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
            line = text.count("\n", 0, found.start()) + 1
            exec(compile("\n" * line + found.group(1), str(GUIDE), "exec"), names)
            count += 1
        self.assertGreater(count, 8)


if __name__ == "__main__":
    unittest.main()
