// The next ten users: one line each, whose lists can be opened.

let asking = null;

function drawUsers() {
  const section = $('users-section');
  section.hidden = !about.judged || state.task !== 'next_item';
  const button = h('button', { type: 'button', id: 'ten', onclick: askTen }, 'Ask the next ten');
  fill($('users'), h('p', {}, `Their last ${about.noun} is held out; the numbers are its places in the lists.`), button,
    h('div', { id: 'ten-answers' }));
}

async function askTen() {
  asking?.abort();
  if (problemsOf.a.length || (state.compare && problemsOf.b.length)) {
    complain(new Error('The wording has an error; mend it first.'));
    return;
  }
  asking = new AbortController();
  const { signal } = asking;
  const names = arms();
  const hits = Object.fromEntries(names.map((name) => [name, 0]));
  const body = h('tbody');
  const total = h('p', { role: 'status' });
  const mine = asking;
  const stop = h('button', { type: 'button', id: 'stop-ten', onclick: () => mine.abort() }, 'Stop');
  const heads = ['User', 'Held out', ...names.map((name) => (state.compare ? name.toUpperCase() : 'Place'))];
  if (state.compare) heads.push('Alike');
  fill($('ten-answers'), h('div', { class: 'scroll', tabIndex: 0, role: 'region', 'aria-label': 'Places of the held-out items' },
    h('table', { class: 'users' }, h('thead', {}, h('tr', {}, heads.map((head, n) => h('th', { scope: 'col', class: n > 1 ? 'value' : '' }, head)))), body)), total, stop);
  try {
    const { users } = await server('following', { user: state.user, count: 10 }, signal);
    let done = 0;
    for (const user of users) {
      const found = {};
      for (const name of names) found[name] = await server('ask', question(name, user), signal);
      const item = found.a.held_out;
      for (const name of names) hits[name] += found[name].held_out?.rank ? 1 : 0;
      const places = names.map((name) => h('td', { class: 'value' }, found[name].held_out?.rank ? String(found[name].held_out.rank) : '–'));
      const cells = [h('th', { scope: 'row' }, h('button', { type: 'button', class: 'plain', onclick: () => show(user, found) }, user)),
        h('td', {}, item.label), ...places];
      if (state.compare) {
        const ids = new Set(found.a.list.recommendations.map((row) => row.item.id));
        const same = found.b.list.recommendations.filter((row) => ids.has(row.item.id)).length;
        cells.push(h('td', { class: 'value' }, `${same} of ${ids.size}`));
      }
      body.append(h('tr', {}, cells));
      done += 1;
      total.textContent = `${done} of ${users.length} users; found ` + names.map((name) =>
        `${state.compare ? `${name.toUpperCase()} ` : ''}${hits[name]}`).join(', ')
        + (done === users.length && state.compare ? '. Ten users show what differs, not which is better.' : '');
    }
  } catch (error) { complain(error); }
  stop.remove();
}

function show(user, found) {
  Object.assign(state, { kind: 'user', user });
  for (const name of arms()) latest[name] = found[name];
  drawWho();
  drawAnswers();
  remember();
  $('status').textContent = `User ${user}`;
  $('answers').focus();
}
