// The arms: template, weights, length of the history.

const editors = {};
const problemsOf = { a: [], b: [] };

// A slider whose low end is fine and whose number can be typed: the middle is a quarter of the top.
function slider(label, value, { low = 0, high = 2, id }, change) {
  const bend = (at) => Math.sign(at) * high * at * at;
  const unbend = (weight) => Math.sign(weight) * Math.sqrt(Math.min(1, Math.abs(weight) / high));
  const range = h('input', { type: 'range', min: low < 0 ? -1 : 0, max: 1, step: 0.01, 'aria-label': `${label}, slider` });
  const exact = h('input', { type: 'number', id, min: low, step: 'any', value });
  range.value = unbend(value);
  range.setAttribute('aria-valuetext', String(value));
  range.addEventListener('input', () => {
    const weight = Number(bend(Number(range.value)).toPrecision(2));
    exact.value = weight;
    range.setAttribute('aria-valuetext', String(weight));
    change(weight);
  });
  exact.addEventListener('input', () => {
    const weight = exact.valueAsNumber;
    if (!exact.checkValidity() || !Number.isFinite(weight)) return;
    range.value = unbend(weight);
    range.setAttribute('aria-valuetext', String(weight));
    change(weight);
  });
  const field = labelled(label, exact);
  field.classList.add('weight');
  field.append(range);
  return field;
}

function drawArms() {
  const place = $('arms');
  const parts = [];
  if (state.compare) {
    const tabs = ['a', 'b'].map((name) => h('button', { type: 'button', role: 'tab', id: `tab-${name}`,
      'aria-selected': String(state.shown === name), 'aria-controls': `arm-${name}`, tabIndex: state.shown === name ? 0 : -1,
      class: `arm-${name}`, onclick: () => { state.shown = name; drawArms(); $(`tab-${name}`).focus(); remember(); },
      onkeydown: (event) => {
        if (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight') return;
        state.shown = name === 'a' ? 'b' : 'a';
        drawArms();
        $(`tab-${state.shown}`).focus();
      } }, name.toUpperCase()));
    const copy = h('button', { type: 'button', onclick: () => {
      const other = state.shown === 'a' ? 'b' : 'a';
      state[state.shown] = structuredClone(state[other]);
      drawArms();
      changed();
    } }, state.shown === 'a' ? 'Make A like B' : 'Make B like A');
    parts.push(h('div', { class: 'tabs' }, h('div', { role: 'tablist', 'aria-label': 'Arm' }, tabs), copy));
  } else state.shown = 'a';
  for (const name of arms()) parts.push(panel(name, name !== state.shown));
  fill(place, parts);
}

function panel(name, hidden) {
  const arm = state[name];
  const change = (field) => (value) => { arm[field] = value; changed(name); };
  const choice = h('select', { onchange: () => {
    Object.assign(arm, { template: choice.value, text: null });
    drawArms();
    changed(name);
  } }, about.templates.filter((one) => one.task === state.task).map((one) =>
    h('option', { value: one.name, selected: one.name === arm.template }, one.name)));
  const newest = h('input', { type: 'number', min: 0, max: 10000, value: arm.newest, oninput: () => {
    if (newest.checkValidity() && newest.value) change('newest')(Number(newest.value));
  } });
  const model = h('select', { id: `model-${name}`, onchange: () => {
    const chosen = about.models.find((one) => one.name === model.value);
    Object.assign(arm, { model: chosen.name, lm: chosen.lm_weight, newest: chosen.max_history });
    drawArms();
    changed(name);
  } }, about.models.map((one) => h('option', { value: one.name, selected: one.name === arm.model }, one.name)));
  const weights = [];
  if (modelOf(arm).engine) {
    weights.push(slider('Weight of the model', arm.lm, { id: `lm-${name}` }, change('lm')));
  }
  for (const prior of Object.keys(about.priors)) {
    weights.push(slider(`Prior ${prior}`, arm.priors[prior], { low: -2, id: `prior-${prior}-${name}` },
      (value) => { arm.priors[prior] = value; changed(name); }));
  }
  const parts = [labelled('Template', choice, templateOf(arm.template).description)];
  if (about.models.length > 1) parts.push(labelled('Model', model, 'Its own weight and length of the history come with it.'));
  parts.push(...weights);
  if (state.task !== 'cold_start') parts.push(labelled('Newest items of the history in the prompt', newest));
  const made = editor({ label: 'Wording', change: (text) => {
    arm.text = text === templateOf(arm.template).text ? null : text;
    again.hidden = arm.text === null;
    changed(name);
  } });
  const again = h('button', { type: 'button', hidden: arm.text === null, onclick: () => {
    arm.text = null;
    drawArms();
    changed(name);
  } }, 'Back to the file');
  editors[name] = made;
  made.set(textOf(arm), about.variables[state.task]);
  made.tell(problemsOf[name]);
  parts.push(made.element, again);
  if (!modelOf(arm).engine) parts.push(h('p', { class: 'empty' }, 'No language model here: the priors alone recommend.'));
  const tabbed = state.compare ? { role: 'tabpanel', 'aria-labelledby': `tab-${name}` } : {};
  return h('div', { id: `arm-${name}`, hidden, ...tabbed }, parts);
}

async function checked(name, signal) {
  const arm = state[name];
  let found = [];
  if (arm.text !== null) {
    found = (await server('check', { name: nameIn(arm.text, arm.template), text: arm.text }, signal)).problems;
    const task = /^task:[ \t]*(\w+)/m.exec(arm.text)?.[1];
    if (!found.length && task !== state.task) {
      found = [{ line: null, message: `The task of this wording is ${task}; above, ${state.task} is chosen.` }];
    }
  }
  problemsOf[name] = found;
  editors[name]?.tell(found);
  return !found.length;
}
