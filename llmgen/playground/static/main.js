// Start, and what happens when something was changed.

let current = null;
const asked = { a: '', b: '' };

function drawAll() {
  drawWho();
  drawWhat();
  drawArms();
  drawUsers();
  drawTrial();
}

function changed() {
  remember();
  $('lists').setAttribute('aria-busy', 'true');
  ask();
}

// Whether there is anything to ask, and what to say if not.
function lacking() {
  if (state.kind === 'user' && state.user === null) return 'Choose a user.';
  if (state.task === 'cold_start' && state.kind === 'newcomer' && !state.wish.trim()) return 'Type a wish.';
  if (!['next_item', 'cold_start'].includes(state.task) && !state.items.length) return `Add a ${about.noun}.`;
  return null;
}

const ask = later(200, async () => {
  current?.abort();
  current = new AbortController();
  const { signal } = current;
  const mine = current;
  const status = $('status');
  const bodies = Object.fromEntries(arms().map((name) => [name, question(name)])); // of now: what is checked is asked
  calm();
  try {
    const fine = await Promise.all(arms().map((name) => checked(name, signal)));
    if (fine.includes(false)) {
      status.textContent = 'The wording has an error; the list is of what was asked before.';
      return;
    }
    const missing = lacking();
    if (missing) {
      status.textContent = missing;
      for (const name of ['a', 'b']) latest[name] = null;
      drawAnswers();
      $('lists').setAttribute('aria-busy', 'false');
      return;
    }
    waitFor(mine);
    for (const [name, body] of Object.entries(bodies)) {
      const key = JSON.stringify(body);
      if (key === asked[name] && latest[name]) continue;
      status.textContent = state.compare ? `Asking ${name.toUpperCase()} …` : 'Asking …';
      latest[name] = await server('ask', body, signal);
      asked[name] = key;
      drawAnswers();
    }
    status.textContent = '';
  } catch (error) {
    if (error.name === 'AbortError' && error.message !== CANCELLED) return; // another change came
    status.textContent = error.name === 'AbortError' ? 'Cancelled; the list is of what was asked before.' : '';
    complain(error);
  }
  waited();
  $('lists').setAttribute('aria-busy', 'false');
});

function colours(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem('llmgen-playground-theme', name);
}

async function start() {
  try {
    about = await server('about');
  } catch (error) {
    if (!(error instanceof Refused)) return complain(error);
    if (sessionStorage.getItem(KEY)) complain(error);
    sessionStorage.removeItem(KEY);
    $('keys').hidden = false;
    return $('key').focus();
  }
  calm();
  $('keys').hidden = true;
  $('page').hidden = false;
  $('data').textContent = `${about.data}: ${counted(about.items, about.noun)}, ${about.engine || 'no language model'}`;
  state = recall();
  if (state.kind === 'user' && state.user === null) {
    state.user = (await server('following', { user: null, count: 1 })).users[0] ?? null;
  }
  $('compare').checked = state.compare;
  $('compare').addEventListener('change', () => {
    state.compare = $('compare').checked;
    if (state.compare) state.shown = 'b';
    drawAll();
    drawAnswers();
    changed();
  });
  drawAll();
  changed();
  window.addEventListener('hashchange', () => {
    state = recall();
    $('compare').checked = state.compare;
    drawAll();
    changed();
  });
  return undefined;
}

$('keys').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $('key').value.trim());
  start();
});
$('link').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    $('link').textContent = 'Copied';
  } catch {
    $('link').textContent = 'It stands in the address bar';
  }
  setTimeout(() => { $('link').textContent = 'Copy link'; }, 2000);
});
$('theme').value = localStorage.getItem('llmgen-playground-theme') || '';
colours($('theme').value);
$('theme').addEventListener('change', () => colours($('theme').value));
start();
