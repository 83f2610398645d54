"""What this repository is built with; nothing of it is published."""
