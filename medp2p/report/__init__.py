"""Tables and pictures into one HTML file that opens offline."""
