/** How long answers have taken. */
export class Times {
  #times = new Float32Array(1024);
  #count = 0;

  /** Adds one, in ms. */
  add(ms: number): void {
    if (this.#count === this.#times.length) {
      const larger = new Float32Array(this.#count * 2);
      larger.set(this.#times);
      this.#times = larger;
    }
    this.#times[this.#count++] = ms;
  }

  /** How many there were, and what half and 99 % of them took at most, in µs. */
  summary(): { echoes: number; p50: number; p99: number } {
    const sorted = this.#times.subarray(0, this.#count).sort();
    const quantile = (q: number) => (sorted[Math.max(Math.ceil(this.#count * q) - 1, 0)] ?? 0) * 1000;
    return { echoes: this.#count, p50: quantile(0.5), p99: quantile(0.99) };
  }
}
