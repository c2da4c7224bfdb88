"""A finished run as a submission to the 16 MB challenge: its folder, and the script that ships in it."""
