
declare global {
  interface HTMLElementTagNameMap {
    "many-hands": ManyHandsElement;
  }
}
