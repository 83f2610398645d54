"""Programs that measure the library, and judge its tests."""
