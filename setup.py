"""The description for package indexes: README.md without what leads to files beside it, which are not there."""

import re
from pathlib import Path

from setuptools import setup

text = Path("README.md").read_text(encoding="utf-8")
text = re.sub(r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n+", "", text, flags=re.MULTILINE)  # pictures
text = re.sub(r"\[([^\]]*)\]\((?!https?:|#)[^)]*\)", r"\1", text)  # links, of which the words stay

setup(long_description=text, long_description_content_type="text/markdown")
