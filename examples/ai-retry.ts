// First calls and retries from a browser. It obeys Retry-After, polls what was accepted, and repeats what got lost:
// nothing is paid for twice, since repeats carry the same Idempotency-Key. Copy it; it needs no package.

export type Problem = { code: string; message: string; details: { generationId?: string; retryAfterSeconds?: number } };
export type Done = { session: Record<string, unknown>; generation: { id: string; status: string } };
type Outlook = { refusal: Problem | null; queued: object | null };
type Answer = { error?: Problem; data?: { session: Done["session"] | null; generation: Done["generation"]; retry?: Outlook } };

export class Refused extends Error {
  problem: Problem; // details.generationId: what can be retried later
  constructor(problem: Problem) { super(problem.message); this.problem = problem; }
}

export function aiRetry(base: string, token: () => Promise<string>, longestWait = 60) {
  const sleep = (seconds: number) => new Promise((done) => setTimeout(done, seconds * 1000));
  const newKey = () => crypto.randomUUID() as string;

  async function send(method: string, path: string, headers: Record<string, string> = {}, body?: object): Promise<Answer> {
    for (let lost = 0; ; lost++) {
      try {
        const type = body ? { "Content-Type": "application/json" } : undefined;
        const all = { ...headers, ...type, Authorization: `Bearer ${await token()}` };
        return await (await fetch(base + path, { method, headers: all, body: body && JSON.stringify(body) })).json();
      } catch (error) {
        if (lost === 5) throw error;
        await sleep(2 ** lost); // the network, or the page of something in between
      }
    }
  }

  async function poll(id: string): Promise<Done> {
    for (;;) {
      const { data, error } = await send("GET", `/sessions/ai/${id}`);
      if (!data) throw new Refused(error!);
      if (data.session) return { session: data.session, generation: data.generation };
      const { queued, refusal } = data.retry!;
      if (!queued && refusal?.code !== "RETRY_IN_PROGRESS")
        throw new Refused(refusal ?? { code: "FAILED", message: "It failed, and can be retried.", details: { generationId: id } });
      await sleep(Math.min(refusal?.details.retryAfterSeconds ?? 2, 5));
    }
  }

  async function post(path: string, headers: Record<string, string>, body?: object, id?: string): Promise<Done> {
    for (;;) {
      const { data, error } = await send("POST", path, headers, body);
      if (data?.session) return { session: data.session, generation: data.generation };
      if (data) return poll(data.generation.id); // accepted: a worker makes it
      id ??= error!.details.generationId;
      if (id && ["RETRY_IN_PROGRESS", "ALREADY_SUCCEEDED"].includes(error!.code)) return poll(id);
      const wait = error!.details.retryAfterSeconds; // of the header, which other origins do not see
      if (wait === undefined || wait > longestWait) throw new Refused(error!);
      await sleep(wait);
      if (id) [path, body] = [`/sessions/ai/${id}/retry`, undefined]; // the generation is there: another attempt
    }
  }

  const later = { Prefer: "respond-async" };
  return {
    generate: (body: object, key = newKey()) => post("/sessions/ai", { "Idempotency-Key": key }, body),
    generateLater: (body: object, key = newKey()) => post("/sessions/ai", { "Idempotency-Key": key, ...later }, body),
    retry: (id: string, key = newKey()) => post(`/sessions/ai/${id}/retry`, { "Idempotency-Key": key }, undefined, id),
  };
}
