// What is on the page, and its place in the link. The part behind # is sent to nobody.

let about = null;
let state = null;

const TASKS = {
  next_item: 'Recommend: what comes next',
  cold_start: 'Recommend: for a wish alone',
  rerank: 'Put given items in order',
  rate: 'Predict ratings',
  explain: 'Say why',
};

function armOf(template) {
  const model = about.models[0];
  return { template, text: null, model: model.name, lm: model.lm_weight, priors: { ...about.priors }, newest: model.max_history };
}

function beginning() {
  const kind = about.users ? 'user' : 'newcomer';
  const template = about.users ? about.used.recommend : firstOf('cold_start');
  return { kind, user: null, history: [], wish: '', items: [], k: 10, filters: [], seen: false, compare: false,
    shown: 'a', a: armOf(template), b: armOf(template), task: taskOf(template) };
}

function firstOf(task) {
  const used = Object.values(about.used).find((name) => taskOf(name) === task);
  return used || about.templates.find((one) => one.task === task)?.name || about.used.recommend;
}

const modelOf = (arm) => about.models.find((one) => one.name === arm.model);
const templateOf = (name) => about.templates.find((one) => one.name === name);
const taskOf = (name) => templateOf(name)?.task || 'next_item';
const textOf = (arm) => arm.text ?? templateOf(arm.template).text;
const arms = () => (state.compare ? ['a', 'b'] : ['a']);

function remember() {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  let text = '';
  for (const byte of bytes) text += String.fromCharCode(byte);
  const hash = btoa(text).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '');
  history.replaceState(null, '', `#${hash}`);
}

function recall() {
  const first = beginning();
  const hash = location.hash.slice(1);
  if (!hash) return first;
  try {
    const text = atob(hash.replaceAll('-', '+').replaceAll('_', '/'));
    const found = JSON.parse(new TextDecoder().decode(Uint8Array.from(text, (one) => one.charCodeAt(0))));
    const made = { ...first, ...found };
    for (const name of ['a', 'b']) {
      const arm = { ...first[name], ...found[name] };
      if (!templateOf(arm.template)) throw new Error(`the prompt ${arm.template} of the link is not here`);
      if (!modelOf(arm)) throw new Error(`the model ${arm.model} of the link is not here`);
      arm.priors = Object.fromEntries(Object.entries(about.priors).map(([prior, weight]) => [prior,
        Number.isFinite(arm.priors?.[prior]) ? arm.priors[prior] : weight]));
      made[name] = arm;
    }
    return made;
  } catch (error) {
    complain(new Error(`The link cannot be read, so the page starts anew: ${error.message}`));
    return first;
  }
}

// The name that a template's front matter gives it, which its messages of errors and its file have.
function nameIn(text, otherwise) {
  const found = /^---[ \t]*\n(?:.*\n)*?name:[ \t]*["']?([A-Za-z0-9][A-Za-z0-9_-]{0,63})["']?[ \t]*(?:#.*)?$/m.exec(text);
  return found && text.startsWith('---') ? found[1] : otherwise;
}

function armBody(name) {
  const arm = state[name];
  const body = { template: arm.template, model: arm.model, lm_weight: arm.lm, priors: arm.priors, max_history: arm.newest };
  if (arm.text !== null) {
    body.text = arm.text;
    body.template = nameIn(arm.text, arm.template);
  }
  return body;
}

function question(name, user = null) {
  const body = { arm: armBody(name), k: state.k, include_seen: state.seen, filters: {} };
  for (const filter of state.filters) {
    if (!filter.name || !filter.value) continue;
    const values = body.filters[filter.name];
    body.filters[filter.name] = values ? [].concat(values, filter.value) : filter.value;
  }
  if (state.wish.trim()) body.wish = state.wish;
  if (user !== null) body.user = user;
  else if (state.kind === 'user') body.user = state.user;
  else if (state.kind === 'history') body.history = state.history.map((item) => item.id);
  if (!['next_item', 'cold_start'].includes(state.task)) body.items = state.items.map((item) => item.id);
  return body;
}
