/** What can be wrong with a request, by what it means for the client. */

/** It cannot be done; the client is told so. */
export class Refusal extends Error {}

/** It is none; the client is told so, and the connection ends. */
export class ProtocolError extends Error {}

/** The connection ends at once, and the server's log says why. */
export class HangUp extends Error {}
