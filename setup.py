"""One step more than pyproject.toml can say: nothing that an older build left is installed.

pip builds in the source tree, and setuptools packs all that lies in build/lib. A module that has
been removed since would be in the wheel, and rules and runtimes are found by what is there.
"""

import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class FreshBuild(build_py):
    """Begins with an empty folder."""

    def run(self) -> None:
        """As always, but for what lies there."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(cmdclass={"build_py": FreshBuild})
