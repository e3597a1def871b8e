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
  return isJson ? answer.json() : answer.text();
}

const findUsers = async (text) => (await server('users', { text })).users.map((user) => ({ id: user.id,
  label: user.id, more: counted(user.items, 'item') }));
const findItems = async (text) => (text.trim() ? (await server('items', { text })).items : []);
