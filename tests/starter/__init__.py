"""Tests that stay with every clone: they hold for any model/ that keeps the contract of docs/your_own_task.md."""
