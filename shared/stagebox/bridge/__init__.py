"""The meter bridge: the levels of any number of racks on one terminal. State and drawing are pure."""
