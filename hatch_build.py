"""Puts machine code into the wheel where that is asked for: DEEPNMF_NATIVE=1 pip wheel --no-deps .

The library is what `deepnmf build-native` would compile on the machine of a user, and --backend native finds it in the
package. Such a wheel is for one kind of machine; without the variable a wheel is for all, and nothing is compiled.
"""

import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "DEEPNMF_NATIVE"


class NativeLibrary(BuildHookInterface):
    """Adds the library to a wheel, and the platform to its name."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the wheel of `version` (standard or editable) is put together."""
        if version == "editable" or not os.environ.get(VARIABLE):
            return
        sys.path.insert(0, self.root)
        try:
            from deepnmf_cli.native import library
        finally:
            sys.path.remove(self.root)
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / library.file_name()
        file.write_bytes(library.compiled())
        build_data["force_include"][str(file)] = f"deepnmf_cli/native/{file.name}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"], build_data["tag"] = False, f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled, which is in the wheel now."""
        if hasattr(self, "folder"):
            self.folder.cleanup()
