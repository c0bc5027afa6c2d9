/** What clients have waited for their answers. */

/** What is known of one client. */
export interface Waiting {
  /** Answers in the measured time, and what they have taken together, in ms. */
  readonly answers: number;
  readonly waited: number;
}

/** What all of them have waited. */
export interface Waits {
  readonly echoes: number;
  /** Clients that got an answer in the measured time. */
  readonly answered: number;
  /** What half of the clients, and 99 % of them, wait at most for an answer, in µs; no more than the measured time. */
  readonly p50: number;
  readonly p99: number;
}

/**
 * Counts clients, not answers: a server that answers some clients again and again, and others never, has many short
 * times and few happy clients. A client waits as long as its answers have taken on average. But its answers, and the one
 * that it waits for at the end, fill the measured time: on average they have taken a part of it each, at least. One
 * without any answer has waited all the time.
 *
 * @param measured ms for which they have asked, and asked again when they were answered.
 */
export function waitsOf(clients: readonly Waiting[], measured: number): Waits {
  const waits = clients.map(({ answers, waited }) => {
    return Math.min(Math.max(answers === 0 ? 0 : waited / answers, measured / (answers + 1)), measured);
  }).sort((a, b) => a - b);
  const quantile = (q: number) => (waits[Math.max(Math.ceil(waits.length * q) - 1, 0)] ?? 0) * 1000;
  return {
    echoes: clients.reduce((sum, { answers }) => sum + answers, 0),
    answered: clients.filter(({ answers }) => answers > 0).length,
    p50: quantile(0.5),
    p99: quantile(0.99),
  };
}
