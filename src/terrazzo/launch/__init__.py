"""Where runs run: a launcher starts tasks, and knows nothing of recipes."""

from typing import Annotated

from pydantic import Field

from terrazzo.launch.local import Local
from terrazzo.launch.slurm import Slurm

LaunchConfig = Annotated[Local | Slurm, Field(discriminator="kind")]
