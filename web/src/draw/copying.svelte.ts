// Text to the clipboard, and what became of it in words. It does not know what is copied.
export class Copying {
  /** "Table copied", or why not; gone after four seconds. */
  said = $state("");

  async copy(text: string, what: string): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
      this.said = `${what} copied`;
    } catch {
      this.said = "found no access to the clipboard; expected this page's leave to write there; allow it in the browser";
    }
    setTimeout(() => (this.said = ""), 4000);
  }
}
