"use strict";
/* The source of samples of a page that a server on this machine has made: it asks that server. A dataset of any size is
   searched in a row of short requests, whose progress is told; another query, or the button Stop, ends it. */

(() => {
  const perPage = 10;
  const mostRanked = 100;
  const { num_shards: numShards, num_samples: numSamples } = JSON.parse(document.querySelector("#page-data").textContent);
  const browser = document.querySelector("#browser");
  const control = (name) => browser.querySelector(`[name="${name}"]`);
  let asked = null;
  let cursors = [null]; // of the pages of the last query; null begins, undefined is not known yet
  let ranked = null;
  let running = null;
  let stopped = false;
  let seeksKey = false; // which finds all or nothing: to stop it is to give it up

  async function ask(name, parameters, signal) {
    const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== "");
    const reply = await fetch(`/${name}?${new URLSearchParams(given)}`, { signal });
    if (!reply.ok) throw new Error(`the server answers ${reply.status}: ${await reply.text()}`);
    const found = await reply.json();
    if (found.problem) throw new Error(found.problem);
    return found;
  }

  async function find(query, tell) {
    running?.abort();
    const own = running = new AbortController();
    stopped = seeksKey = false;
    const { words, shard, of, order } = query;
    const signature = JSON.stringify([words, shard, of, order]);
    if (signature !== asked) [asked, cursors, ranked] = [signature, [null], null];
    try {
      if (query.key !== null) return await findKey(query.key, tell, own.signal);
      return await (order === "stored" ? walk : rank)(query, tell, own.signal);
    } catch (error) {
      if (own.signal.aborted) return nothing(stopped ? "The search was stopped" : "");
      return nothing(error instanceof TypeError ? "The server does not answer: was it ended?" : `${error.message}`);
    } finally {
      if (own === running) control("stop").hidden = true;
    }
  }

  const nothing = (said) => ({ total: 0, first: 0, samples: [], more: false, said });

  async function findKey(key, tell, signal) {
    control("stop").hidden = false;
    seeksKey = true;
    tell("The key is searched for …");
    const { samples, by_manifest: byManifest } = await ask("sample", { key }, signal);
    const said = `1 sample, of ${samples[0].shard}${byManifest ? "" : ", found by reading shards"}`;
    return { total: 1, first: 0, samples, more: false, said };
  }

  /* A page of the samples that hold all words, or of all samples, as they are stored. */
  async function walk({ words, shard, of, page }, tell, signal) {
    const isSearch = Boolean(words.trim() || of);
    const first = page * perPage;
    const samples = [];
    const problems = [];
    let at = cursors[page];
    do {
      const asking = { words, shard, of, at: at && at.join("."), most: perPage - samples.length };
      const found = await ask("samples", asking, signal);
      samples.push(...found.samples);
      problems.push(...found.problems);
      at = found.next;
      if (isSearch) control("stop").hidden = false;
      tell(`${samples.length} found, ${searched(at, shard)} …`);
    } while (at && samples.length < perPage && !stopped);
    cursors[page + 1] = at;
    const total = !isSearch && !shard && numSamples !== null ? ` of ${numSamples.toLocaleString("en")}` : "";
    const none = first ? "No further sample fits" : "No sample fits";
    const shown = samples.length ? `${first + 1}–${first + samples.length}${total}` : none;
    const parts = [shown, isSearch && at ? searched(at, shard) : "", ...problems];
    return { total: null, first, samples, more: Boolean(at), said: parts.filter(Boolean).join("; ") };
  }

  function searched(at, shard) {
    if (shard) return at ? `${at[1]} samples searched` : "all searched";
    return `${(at ? at[0] : numShards).toLocaleString("en")} of ${numShards.toLocaleString("en")} shards searched`;
  }

  /* A page of the samples with the lowest or the highest values, by the manifest's tables of samples. */
  async function rank({ shard, of, order, page }, tell, signal) {
    const [by, direction] = order.split(" ");
    const sign = direction === "up" ? 1 : -1;
    ranked ??= { samples: [], problems: [], next: 0 };
    control("stop").hidden = false;
    while (ranked.next !== null && !stopped) {
      const found = await ask("ranking", { by, direction, of, shard, first: ranked.next }, signal);
      ranked.samples.push(...found.samples);
      ranked.samples.sort((a, b) => sign * (a.value - b.value));
      ranked.samples.length = Math.min(ranked.samples.length, mostRanked);
      ranked.problems.push(...found.problems);
      ranked.next = found.next;
      tell(`${found.next ?? numShards} of ${numShards.toLocaleString("en")} tables of samples read …`);
    }
    const first = page * perPage;
    const chosen = ranked.samples.slice(first, first + perPage);
    const replies = await Promise.all(chosen.map(({ key, shard: name }) => ask("sample", { key, shard: name }, signal)));
    const total = ranked.samples.length;
    const left = ranked.next === null ? "" : `${ranked.next.toLocaleString("en")} of ${numShards.toLocaleString("en")} tables read`;
    const shown = total ? `${first + 1}–${first + chosen.length} of the ${total} first` : "No sample has such a value in the manifest";
    const said = [shown, left, ...ranked.problems].filter(Boolean).join("; ");
    return { total, first, samples: replies.flatMap(({ samples }) => samples), said };
  }

  /* Names of shards for what is typed. */
  async function suggest() {
    const reply = await fetch(`/shards?${new URLSearchParams({ like: control("shard").value })}`).catch(() => null);
    if (!reply?.ok) return;
    const { shards } = await reply.json();
    document.querySelector("#shards").replaceChildren(...shards.map((name) => new Option(name, name)));
  }

  control("shard").addEventListener("input", suggest);
  control("shard").addEventListener("focus", suggest, { once: true });
  control("stop").addEventListener("click", () => {
    stopped = true;
    if (seeksKey) running?.abort();
  });
  control("key").addEventListener("change", () => {
    const key = control("key").value;
    location.hash = key && `#key=${encodeURIComponent(key)}`;
    if (!key) control("order").dispatchEvent(new Event("change"));
  });
  // The manifest tells orders and has no captions, so that a search is always as stored.
  control("words").addEventListener("input", () => { control("order").value = "stored"; });
  control("order").addEventListener("change", () => { control("words").value = ""; });
  window.sampleSource = { find };
})();
