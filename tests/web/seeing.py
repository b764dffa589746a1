"""What tests of pages wait for."""


def see(page, text: str) -> None:
    """Waits until something is drawn that says so."""
    page.locator("#drawn").get_by_text(text, exact=False).first.wait_for()
