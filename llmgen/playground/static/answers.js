// The answers: lists with the parts of each score, side by side where there are two, and what the model read.

const latest = { a: null, b: null };

function drawAnswers() {
  const names = arms().filter((name) => latest[name]);
  const place = $('lists');
  if (!names.length) return fill(place);
  const lists = names.every((name) => latest[name].list);
  place.classList.toggle('two', names.length === 2);
  followed.disconnect();
  if (names.length === 2 && lists) {
    const sides = h('div', { class: 'sides' }, column('a', latest.b), moves(), column('b', latest.a));
    fill(place, sides);
    followed.observe(sides);
  } else fill(place, names.map((name) => column(name, null)));
  drawPrompts(names);
}

function facts(answer) {
  const list = answer.list;
  const said = [];
  if (list) {
    said.push(list.exact ? 'proven to be the best' : 'not proven to be the best');
    if (answer.prompt) said.push(counted(list.num_rounds, 'round'));
  }
  said.push(`${answer.milliseconds.toFixed(0)} ms`);
  return said.join(' · ');
}

function column(name, other) {
  const answer = latest[name];
  const title = state.compare ? h('h3', { class: `arm-${name}` }, name.toUpperCase(), ' ', h('small', {},
    answer.list?.prompt || '')) : null;
  const parts = [title, h('p', { class: 'facts' }, facts(answer)), heldOut(answer)];
  if (answer.list) {
    for (const warning of answer.list.warnings) parts.push(h('p', { class: 'warning' }, warning));
    parts.push(list(answer, other, name));
  } else if (answer.ratings) parts.push(h('ol', { class: 'ratings' }, answer.ratings.map(rating)));
  else parts.push(reason(answer.reason));
  return h('div', { class: `side side-${name}`, 'data-arm': name }, parts);
}

function heldOut(answer) {
  const item = answer.held_out;
  if (!item) return null;
  const where = item.rank ? `at place ${item.rank}` : 'not in the list';
  return h('p', { class: 'held-out' }, h('span', { class: 'mark' }, 'held out'), ` ${item.label}: ${where}`);
}

function moved(item, other, name) {
  if (!other) return null;
  const before = other.list.recommendations.find((one) => one.item.id === item.item.id);
  if (name === 'a') return before ? null : h('span', { class: 'move gone' }, 'not in B');
  if (!before) return h('span', { class: 'move new' }, 'new');
  const step = before.rank - item.rank;
  if (!step) return h('span', { class: 'move same' }, '=');
  return h('span', { class: `move ${step > 0 ? 'up' : 'down'}` }, `${step > 0 ? '▲' : '▼'} ${Math.abs(step)}`);
}

function list(answer, other, name) {
  const rows = answer.list.recommendations;
  const widest = Math.max(1e-9, ...rows.flatMap((row) => Object.values(row.terms).map(Math.abs)));
  return h('ol', { class: 'list' }, rows.map((row) => {
    const judged = answer.held_out?.id === row.item.id;
    const summary = h('summary', {}, h('span', { class: 'rank' }, String(row.rank)), picture(row.item),
      h('span', { class: 'title' }, row.label), judged ? h('span', { class: 'mark' }, 'held out') : null,
      moved(row, other, name), h('span', { class: 'share' }, percent(row.probability)));
    return h('li', { class: judged ? 'judged' : '', 'data-id': row.item.id }, h('details', { open: !state.compare },
      summary, details(row, answer, widest)));
  }));
}

// Pictures come from the service with its key, so they are fetched and not linked; each is kept while the page is open.
const pictures = new Map();

function picture(item) {
  if (!about.picture || !item.attributes[about.picture]) return null;
  const image = h('img', { class: 'picture', alt: '', width: 36, height: 48 });
  if (!pictures.has(item.id)) {
    pictures.set(item.id, server('picture', { id: item.id }).then((file) => URL.createObjectURL(file)));
  }
  pictures.get(item.id).then((url) => { image.src = url; }, (error) => {
    image.replaceWith(h('span', { class: 'picture lacking', title: error.message }, '?'));
  });
  return image;
}

function details(row, answer, widest) {
  const said = Object.entries(row.item.attributes).filter(([name]) => name !== about.picture).map(([name, value]) =>
    `${name} ${Array.isArray(value) ? value.join(', ') : value}`).join(' · ');
  const because = answer.evidence[row.item.id] || [];
  const ways = { trie: '', prior: 'from the priors', exact: 'written exactly so', normalised: 'written alike', bm25: 'found by its words' };
  const how = answer.prompt ? ways[row.grounding.method] : '';
  return h('div', { class: 'inside' },
    said ? h('p', {}, said) : null,
    h('table', { class: 'terms' }, h('caption', {}, `Score ${signed(row.score)}, of`), h('tbody', {},
      Object.entries(row.terms).map(([name, value]) => h('tr', {}, h('th', { scope: 'row' }, name),
        h('td', {}, bar(value / widest, name)), h('td', { class: 'value' }, signed(value)))))),
    because.length ? h('p', { class: 'because' }, `Because of ${because.join(', ')}`) : null,
    how ? h('p', { class: 'because' }, how) : null);
}

function bar(share, name) {
  const width = 50 * Math.min(1, Math.abs(share));
  return svg('svg', { viewBox: '0 0 100 8', preserveAspectRatio: 'none', class: name === 'lm' ? 'bar lm' : 'bar', 'aria-hidden': 'true' },
    svg('line', { x1: 50, y1: 0, x2: 50, y2: 8, class: 'zero' }),
    svg('rect', { x: share < 0 ? 50 - width : 50, y: 1, width, height: 6 }));
}

// Lines from each item's place in A to its place in B; an item of one list alone has only a short one.
function moves() {
  const picture = svg('svg', { 'aria-hidden': 'true' });
  return h('div', { class: 'moves' }, picture);
}

// The lines follow the rows, whose height changes as they are opened or the page gets narrower.
function drawMoves(sides) {
  const picture = sides.querySelector('.moves svg');
  const frame = picture.getBoundingClientRect();
  const places = Object.fromEntries(['a', 'b'].map((name) => [name, Object.fromEntries(
    [...sides.querySelectorAll(`.side-${name} .list > li`)].map((row, n) => {
      const box = row.querySelector('summary').getBoundingClientRect();
      return [row.dataset.id, { rank: n, y: box.top + box.height / 2 - frame.top }];
    }))]));
  const line = (x1, y1, x2, y2, kind) => svg('line', { x1, y1, x2, y2, class: kind });
  const width = frame.width;
  const lines = [];
  for (const [id, from] of Object.entries(places.a)) {
    const to = places.b[id];
    const kind = !to ? 'gone' : to.rank < from.rank ? 'up' : to.rank > from.rank ? 'down' : 'same';
    lines.push(to ? line(2, from.y, width - 2, to.y, kind) : line(2, from.y, width / 4, from.y, kind));
  }
  for (const [id, to] of Object.entries(places.b)) {
    if (!places.a[id]) lines.push(line((3 * width) / 4, to.y, width - 2, to.y, 'new'));
  }
  fill(picture, lines);
}

const followed = new ResizeObserver((entries) => entries.forEach((entry) => drawMoves(entry.target)));

function rating(one) {
  const most = Math.max(...Object.values(one.distribution));
  return h('li', {}, h('strong', {}, one.label), ` ${one.mean.toFixed(2)} on average, most likely ${number(one.mode)}`,
    h('table', { class: 'terms' }, h('tbody', {}, Object.entries(one.distribution).map(([label, share]) => h('tr', {},
      h('th', { scope: 'row' }, label), h('td', {}, bar(share / most, 'rate')), h('td', { class: 'value' }, percent(share)))))));
}

function reason(found) {
  const unfounded = found.unfounded.length ? h('p', { class: 'warning' },
    `${found.source === 'model' ? 'The' : 'A plain sentence of the prompt; the'} model said what it was not told: ${found.unfounded.join(', ')}`) : null;
  return h('div', {}, h('blockquote', {}, found.text), unfounded, found.evidence.length
    ? h('p', { class: 'because' }, `From ${found.evidence.map((item) => item.title).join(', ')}`) : null);
}

function drawPrompts(names) {
  const shown = names.filter((name) => latest[name].prompt);
  $('prompt-section').hidden = !shown.length;
  fill($('prompts'), shown.map((name) => {
    const { prompt, history } = latest[name];
    const cut = history.length > prompt.shown;
    const why = prompt.shown < prompt.most ? 'more do not fit into the model’s context' : 'the rest is cut by the length that is set';
    const said = `${prompt.ref}: ${counted(prompt.tokens, 'token')} of ${prompt.room.toLocaleString('en')}; `
      + `${prompt.shown} of ${counted(history.length, 'item')} of the history${cut ? `, ${why}` : ''}`;
    return h('details', { open: true }, h('summary', {}, state.compare ? `${name.toUpperCase()} · ` : '', said),
      prompt.messages.map((message) => h('div', { class: 'message' }, h('h3', {}, message.role),
        h('pre', { tabIndex: 0, 'aria-label': `Message of the ${message.role}` }, message.content))));
  }));
}
