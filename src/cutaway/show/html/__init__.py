"""Objects as HTML for a notebook: no script, no network, readable in dark and in light."""
