// "Is B better?": saves both arms, and runs an A/B test in the background of the service.

let watching = 0;

function drawTrial() {
  $('trial-section').hidden = !state.compare || state.task !== 'next_item' || !about.judged;
  if ($('trial').childElementCount) return;
  const unused = () => `b-against-a-${new Date().toISOString().slice(0, 19).replace(/[T:]/g, '-')}`;
  const name = h('input', { type: 'text', id: 'trial-name', pattern: '[A-Za-z0-9][A-Za-z0-9_\\-]{0,63}', required: true,
    value: unused() });
  const users = h('input', { type: 'number', id: 'trial-users', min: 2, max: about.judged, value: Math.min(about.judged, 200) });
  const body = () => ({ name: name.value, a: armBody('a'), b: armBody('b'), k: state.k,
    users: Number(users.value) >= about.judged ? null : Number(users.value) });
  const ready = () => {
    if (problemsOf.a.length || problemsOf.b.length) throw new Error('A template has an error; mend it first.');
    return form.reportValidity();
  };
  const run = (path, after) => async () => {
    try {
      calm();
      if (!ready()) return;
      after(await server(path, body()));
      name.value = unused();
    } catch (error) { complain(error); }
  };
  const form = h('form', { onsubmit: (event) => event.preventDefault() },
    h('p', {}, 'Both arms answer for the same users of the log, whose last item is held out. The interval may be looked '
      + 'at, and the test stopped, at any time. Wish and filters are left out.'),
    h('div', { class: 'row' }, labelled('Users', users), labelled('Name', name,
      `Templates, config and answers are written to ${about.runs}/NAME.`)),
    h('div', { class: 'row' },
      h('button', { type: 'button', id: 'start', class: 'main', onclick: run('trial', watch) }, 'Save and start'),
      h('button', { type: 'button', id: 'save', onclick: run('save', (saved) => tellSaved(saved)) }, 'Save only')));
  fill($('trial'), form, h('div', { id: 'saved', role: 'status' }), h('div', { id: 'run' }));
  server('trial').then((told) => { if (told.state) watch(told); }).catch(complain);
}

function tellSaved(saved) {
  fill($('saved'), h('p', {}, `Saved in ${saved.folder}. Run it with`), h('pre', { tabIndex: 0, 'aria-label': 'Command' }, saved.command));
}

function watch(told) {
  clearTimeout(watching);
  drawRun(told);
  if (told.state === 'running') {
    watching = setTimeout(() => server('trial').then(watch).catch((error) => {
      complain(error);
      watching = setTimeout(() => watch(told), 5000);
    }), 700);
  }
}

function drawRun(told) {
  const last = told.looks.at(-1);
  const running = told.state === 'running';
  const say = last ? `B − A in ${told.metric.toUpperCase()}: ${signed4(last.mean)} [${signed4(last.low)}, ${signed4(last.high)}] `
    + `after ${counted(last.users, 'user')} of ${told.total}` : running ? 'Getting ready.' : '';
  const parts = [h('h3', {}, told.name), h('p', { role: 'status', id: 'trial-status' },
    { running: told.stopping ? 'Stopping.' : 'Running.', done: 'Done.', failed: 'Failed.' }[told.state], ' ', say)];
  if (told.looks.length > 1) parts.push(chart(told));
  if (told.error) parts.push(h('p', { class: 'warning' }, told.error));
  if (told.verdict) parts.push(h('p', { class: 'verdict' }, told.verdict));
  if (running) parts.push(h('button', { type: 'button', id: 'stop', disabled: told.stopping, onclick: () =>
    server('trial/stop', {}).then(watch).catch(complain) }, 'Stop'));
  else if (told.state === 'done') parts.push(h('button', { type: 'button', id: 'report', onclick: report }, 'Open the report'));
  parts.push(h('p', {}, 'The same from the command line:'), h('pre', { tabIndex: 0, 'aria-label': 'Command of the A/B test' }, told.command));
  fill($('run'), parts);
}

const signed4 = (value) => (value < 0 ? '−' : '+') + Math.abs(value).toFixed(4);

function chart({ looks, total }) {
  const most = Math.max(...looks.slice(1).flatMap((look) => [Math.abs(look.low), Math.abs(look.high)]), 0.01);
  const x = (users) => (600 * users) / total;
  const y = (value) => 80 - 75 * Math.max(-1, Math.min(1, value / most));
  const path = (field) => looks.map((look) => `${x(look.users).toFixed(1)},${y(look[field]).toFixed(1)}`);
  return svg('svg', { viewBox: '0 0 600 160', class: 'chart', role: 'img', 'aria-label': 'The interval of B minus A as users are asked' },
    svg('polygon', { points: [...path('low'), ...path('high').reverse()].join(' ') }),
    svg('line', { x1: 0, x2: 600, y1: 80, y2: 80, class: 'zero' }),
    svg('polyline', { points: path('mean').join(' ') }));
}

async function report() {
  if (!sessionStorage.getItem(KEY)) return window.open('/playground/api/trial/report', '_blank', 'noopener');
  try {
    const file = URL.createObjectURL(new Blob([await server('trial/report')], { type: 'text/html' }));
    h('a', { href: file, download: 'report.html' }).click();
    setTimeout(() => URL.revokeObjectURL(file), 10000);
  } catch (error) { complain(error); }
  return undefined;
}
