/** How a process that was started by this library finds the socket of its parent. */

/** The variable that says which descriptor of a process is the socket of its parent: {@linkcode PARENT_FD}. */
export const PARENT_VARIABLE = "C10K_SOCKETS_PARENT";

/** That descriptor: the first one after the standard ones. */
export const PARENT_FD = 3;
