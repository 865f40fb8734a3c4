"""The pair that every other test of the page stands on: a Playwright, and a Chromium that it did not bring."""


def test_the_driver_drives_this_browser(browser):
    page = browser.new_page()
    page.set_content("<button onclick='this.textContent = 6 * 7'>?</button>")
    page.get_by_role("button").click()
    assert page.get_by_role("button").inner_text() == "42"
    page.close()
