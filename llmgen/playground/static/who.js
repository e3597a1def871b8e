// Who asks, and for what.

function chips(items, remove, words) {
  if (!items.length) return h('p', { class: 'empty' }, words);
  return h('ol', { class: 'chips' }, items.map((item, n) => h('li', {}, item.label, h('button', { type: 'button',
    'aria-label': `Remove ${item.label}`, onclick: () => remove(n) }, '×'))));
}

function drawWho() {
  const place = $('who');
  const choose = (kind) => () => {
    state.kind = kind;
    const wanted = kind === 'newcomer' ? 'cold_start' : 'next_item';
    if (['next_item', 'cold_start'].includes(state.task) && state.task !== wanted) setTask(wanted);
    drawAll();
    changed();
  };
  const kinds = [['user', 'A user of the log'], ['history', 'A history of your own'], ['newcomer', 'A newcomer']];
  const radios = h('fieldset', { class: 'choices' }, h('legend', {}, 'Known of them'), kinds.map(([kind, words]) =>
    h('label', {}, h('input', { type: 'radio', name: 'kind', value: kind, checked: state.kind === kind,
      disabled: kind === 'user' && !about.users, onchange: choose(kind) }), ' ', words)));
  const parts = [radios];
  if (state.kind === 'user') {
    const box = combobox({ label: 'User', find: findUsers, keep: true, placeholder: 'Begin to type an id',
      hint: `${counted(about.users, 'user')}; the last ${about.noun} of each is held out and marked in the list.`,
      pick: (user) => { state.user = user.id; changed(); } });
    box.input.value = state.user ?? '';
    parts.push(h('div', { class: 'row' }, box.field, h('button', { type: 'button', id: 'next-user', onclick: async () => {
      try {
        state.user = (await server('following', { user: state.user, count: 1 })).users[0] ?? state.user;
        box.input.value = state.user ?? '';
        changed();
      } catch (error) { complain(error); }
    } }, 'Next user')));
  } else if (state.kind === 'history') {
    const box = combobox({ label: `Add a ${about.noun}`, find: findItems, placeholder: 'Begin to type a title',
      pick: (item) => { state.history.push(item); drawWho(); changed(); $('who').querySelector('input[type=text]').focus(); } });
    parts.push(box.field, chips(state.history, (n) => { state.history.splice(n, 1); drawWho(); changed(); },
      'Nothing yet. Oldest first.'));
  }
  const wish = h('textarea', { id: 'wish', rows: 2, maxLength: 10000, value: state.wish,
    placeholder: 'In their own words', oninput: () => { state.wish = wish.value; changed(); } });
  parts.push(labelled('Wish', wish, 'Stays in this page and the service; it is not logged.'));
  fill(place, parts);
}

function setTask(task) {
  state.task = task;
  for (const name of ['a', 'b']) {
    if (taskOf(state[name].template) !== task) Object.assign(state[name], { template: firstOf(task), text: null });
  }
}

function drawWhat() {
  const there = new Set(about.templates.map((one) => one.task));
  const task = h('select', { id: 'task', onchange: () => { setTask(task.value); drawAll(); changed(); } },
    Object.entries(TASKS).filter(([name]) => there.has(name)).map(([name, words]) =>
      h('option', { value: name, selected: name === state.task }, words)));
  const parts = [labelled('Task', task)];
  if (['next_item', 'cold_start'].includes(state.task)) {
    const k = h('input', { type: 'number', id: 'k', min: 1, max: 100, value: state.k, oninput: () => {
      if (k.checkValidity() && k.value) { state.k = Number(k.value); changed(); }
    } });
    const seen = h('input', { type: 'checkbox', checked: state.seen, onchange: () => { state.seen = seen.checked; changed(); } });
    parts.push(h('div', { class: 'row' }, labelled('Length of the list', k),
      h('label', { class: 'switch' }, seen, ' Items of the history may come again')));
  } else {
    const box = combobox({ label: state.task === 'explain' ? `The ${about.noun} to explain` : `Add a ${about.noun}`,
      find: findItems, placeholder: 'Begin to type a title', pick: (item) => {
        state.items = state.task === 'explain' ? [item] : [...state.items, item];
        drawWhat();
        changed();
      } });
    parts.push(box.field, chips(state.items, (n) => { state.items.splice(n, 1); drawWhat(); changed(); },
      'None yet: this task is about given items.'));
  }
  if (Object.keys(about.attributes).length && state.task !== 'rate' && state.task !== 'explain') parts.push(filters());
  fill($('what'), parts);
}

function filters() {
  const rows = state.filters.map((filter, n) => {
    const of = about.attributes[filter.name] || {};
    const values = fresh('values');
    const name = h('select', { 'aria-label': 'Attribute', onchange: () => {
      Object.assign(filter, { name: name.value, value: '' });
      drawWhat();
      changed();
    } }, Object.keys(about.attributes).map((one) => h('option', { value: one, selected: one === filter.name }, one)));
    const value = h('input', { type: 'text', 'aria-label': `Allowed ${filter.name}`, value: filter.value, list: values,
      placeholder: 'low' in of ? `${of.low}..${of.high}` : of.values?.[0], onchange: () => { filter.value = value.value.trim(); changed(); } });
    return h('div', { class: 'row filter' }, name, value,
      h('datalist', { id: values }, (of.values || []).map((one) => h('option', { value: one }))),
      h('button', { type: 'button', 'aria-label': `Remove the filter on ${filter.name}`, onclick: () => {
        state.filters.splice(n, 1);
        drawWhat();
        changed();
      } }, '×'));
  });
  const add = h('button', { type: 'button', id: 'add-filter', onclick: () => {
    state.filters.push({ name: Object.keys(about.attributes)[0], value: '' });
    drawWhat();
  } }, 'Add a filter');
  return h('fieldset', {}, h('legend', {}, 'Filters'), rows, add);
}
