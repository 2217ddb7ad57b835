"""Widgets that work twice: live in Jupyter, and in the reader's browser without a kernel.

Each is an anywidget whose front end is one import-free module; all data travel in the saved
widget state, so the built page needs neither a server nor another host.
"""

from pathlib import Path

import anywidget
import pandas as pd
import traitlets

from edgeutils import EdgeError

_HERE = Path(__file__).parent


class ApplicationExplorer(anywidget.AnyWidget):
    """Pick a phone and a network; see energy and power of one inference on each processor.

    Parameters
    ----------
    table
        Application rows with `device`, `name`, `task`, `processor`, `energy_j` and `power_w`.
    device, network
        What is shown first.

    Raises
    ------
    EdgeError
        A device or network that the table does not hold; the message lists the valid ones.
    """

    _esm = _HERE / "application_explorer.mjs"
    _css = _HERE / "widget.css"
    rows: traitlets.List = traitlets.List().tag(sync=True)
    device = traitlets.Unicode().tag(sync=True)
    network = traitlets.Unicode().tag(sync=True)
    source = traitlets.Unicode().tag(sync=True)

    def __init__(self, table: pd.DataFrame, *, device: str, network: str):
        for column, value in (("device", device), ("name", network)):
            if value not in set(table[column]):
                valid = ", ".join(map(str, table[column].unique()))
                raise EdgeError(f"no {column} {value!r} in this table; choose one of {valid}")
        columns = ["device", "name", "task", "processor", "energy_j", "power_w"]
        rows = table[columns].astype(object).where(table[columns].notna(), None)
        sources = " and ".join(sorted(table["source"].unique()))
        super().__init__(
            rows=rows.to_dict("records"), device=device, network=network, source=sources
        )

    def selected(self) -> pd.DataFrame:
        """Rows of the phone and the network chosen now, in the units of the table."""
        frame = pd.DataFrame(self.rows)
        return frame[(frame["device"] == self.device) & (frame["name"] == self.network)]

    def __repr__(self) -> str:
        return f"ApplicationExplorer(device={self.device!r}, network={self.network!r})"
