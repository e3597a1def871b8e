// The service's answers. The key is kept until the tab is closed, and goes nowhere but to this service.

const KEY = 'llmgen-playground-key';

class Refused extends Error {}

async function server(path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const given = { headers, signal, cache: 'no-store' };
  if (body !== undefined) {
    given.method = 'POST';
    given.body = JSON.stringify(body);
    headers['Content-Type'] = 'application/json';
  }
  let answer;
  try {
    answer = await fetch(`/playground/api/${path}`, given);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The service does not answer; is it still running?');
  }
  if (answer.status === 401) throw new Refused('This API key is wrong.');
  const isJson = (answer.headers.get('content-type') || '').startsWith('application/json');
  if (!answer.ok) throw new Error(isJson ? (await answer.json()).message : `The service answered ${answer.status}.`);
  if (isJson) return answer.json();
  return (answer.headers.get('content-type') || '').startsWith('image/') ? answer.blob() : answer.text();
}

// What takes longer than a second shows for how long it runs, and can be cancelled. The clock is not read aloud.
const CANCELLED = 'cancelled';
let ticking = 0;

function waitFor(controller) {
  const began = performance.now();
  clearInterval(ticking);
  ticking = setInterval(() => {
    const seconds = Math.floor((performance.now() - began) / 1000);
    $('waiting').hidden = seconds < 1;
    $('clock').textContent = `${seconds} s`;
  }, 250);
  $('cancel').onclick = () => controller.abort(new DOMException(CANCELLED, 'AbortError'));
}

function waited() {
  clearInterval(ticking);
  $('waiting').hidden = true;
}

const findUsers = async (text) => (await server('users', { text })).users.map((user) => ({ id: user.id,
  label: user.id, more: counted(user.items, 'item') }));
const findItems = async (text) => (text.trim() ? (await server('items', { text })).items : []);
