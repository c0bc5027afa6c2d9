/** nginx in the foreground, with a folder of its own. */

import { Program } from "./_program.ts";
import { eventually, freePort } from "./_util.ts";

/** A web server that answers with its name, and with the files of a folder under `/files/`. */
export class Nginx implements AsyncDisposable {
  readonly port: number = freePort();
  readonly folder: string = Deno.makeTempDirSync();
  readonly #program: Program;

  private constructor(name: string) {
    const { port, folder } = this;
    Deno.mkdirSync(`${folder}/files`);
    const scratch = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((what) => `${what}_temp_path ${folder};`);
    Deno.writeTextFileSync(
      `${folder}/nginx.conf`,
      `daemon off;
       master_process off;
       pid ${folder}/pid;
       error_log stderr;
       events { worker_connections 256; }
       http {
         ${scratch.join(" ")}
         log_format path "$request_uri";
         access_log ${folder}/requests path;
         server {
           listen 127.0.0.1:${port};
           location / { return 200 "${name}\\n"; }
           location /files/ { root ${folder}; }
         }
       }`,
    );
    this.#program = new Program("nginx", ["-p", folder, "-c", `${folder}/nginx.conf`, "-e", "stderr"]);
  }

  /** Starts nginx on a free port, and waits until it listens. */
  static async start(name: string): Promise<Nginx> {
    const nginx = new Nginx(name);
    try {
      await eventually(() => nginx.#listens() || undefined);
    } catch (error) {
      await nginx[Symbol.asyncDispose]();
      throw new Error(`nginx does not listen: ${nginx.#program.stderr}`, { cause: error });
    }
    return nginx;
  }

  /** The paths that it was asked for. */
  requests(): string[] {
    return Deno.readTextFileSync(`${this.folder}/requests`).split("\n").filter((line) => line !== "");
  }

  #listens(): boolean {
    try {
      // Written once the socket is there.
      return Deno.statSync(`${this.folder}/pid`).size > 0;
    } catch {
      return false;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program[Symbol.asyncDispose]();
    await Deno.remove(this.folder, { recursive: true });
  }
}
