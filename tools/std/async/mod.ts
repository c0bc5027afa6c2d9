// @ts-types="./mod.d.ts"
export { abortable } from "npm:deno-std@1.4.0/async/abortable.js";
// @ts-types="./mod.d.ts"
export { deadline } from "npm:deno-std@1.4.0/async/deadline.js";
// @ts-types="./mod.d.ts"
export { delay } from "npm:deno-std@1.4.0/async/delay.js";
export type { DeadlineOptions, DelayOptions } from "./mod.d.ts";
