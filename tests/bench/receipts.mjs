// What checking the public log takes in a tab: `cargo xtask bench receipts`.

/** Runs in the page: milliseconds a check, by rounds. */
async function checks({ entries, entryBytes, rounds, count }) {
  const { load } = await import("/pkg/load.js");
  const { Receipts } = await load();
  const receipts = new Receipts(entries, entryBytes);
  const kinds = {
    inclusion: () => receipts.includes(),
    consistency: () => receipts.grew(),
    signature: () => receipts.signed(),
  };
  const samples = {};
  for (let round = 0; round <= rounds; round += 1) {
    for (const [kind, check] of Object.entries(kinds)) {
      const begun = performance.now();
      for (let at = 0; at < count; at += 1) if (!check()) throw new Error(`${kind} fails`);
      // The first round compiles.
      if (round > 0) (samples[kind] ??= []).push((performance.now() - begun) / count);
    }
  }
  return samples;
}

/** What the JSON says of it. */
export async function receipts(page, options, spread, log) {
  const asked = { entries: 1_000_000, entryBytes: 700, rounds: options.rounds, count: 100 };
  const samples = await page.evaluate(checks, asked);
  const told = Object.entries(samples).map(([kind, values]) => {
    const { median, worst: least, best: most } = spread(values);
    log(`${kind.padEnd(12)} ${median.toFixed(4)} ms (${least.toFixed(4)}–${most.toFixed(4)})`);
    return [kind, { median_ms: median, least_ms: least, most_ms: most }];
  });
  return { entries: asked.entries, entry_bytes: asked.entryBytes, checks: Object.fromEntries(told) };
}
