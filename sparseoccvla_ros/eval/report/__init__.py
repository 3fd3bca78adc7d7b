"""What an evaluation found: tables for terminal and page, plots, pictures, and the page with everything."""
