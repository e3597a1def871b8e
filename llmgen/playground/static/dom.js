// Elements, made without HTML: every text is a text node, so nothing that a title or a template says is obeyed.

const $ = (id) => document.getElementById(id);

function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === 'spellcheck') element.setAttribute(name, String(value));
    else if (value === undefined || value === null || value === false) continue;
    else if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'class') element.className = value;
    else if (name in element && name !== 'list' && name !== 'form') element[name] = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const fill = (place, ...children) => place.replaceChildren(...children.flat().filter(Boolean));

let lastId = 0;
const fresh = (word) => `${word}-${(lastId += 1)}`;

function labelled(text, input, hint) {
  input.id = input.id || fresh('field');
  const parts = [h('label', { htmlFor: input.id }, text), input];
  if (hint) {
    const id = fresh('hint');
    input.setAttribute('aria-describedby', id);
    parts.push(h('small', { id }, hint));
  }
  return h('div', { class: 'field' }, parts);
}

function later(milliseconds, run) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...given), milliseconds);
  };
}

const number = (value, digits = 3) => (value === null ? '–' : Number(value.toPrecision(digits)).toString());
const signed = (value) => (value < 0 ? '−' : '+') + Math.abs(value).toFixed(Math.abs(value) < 10 ? 2 : 1);
const percent = (value) =>
  value === null ? '–' : value >= 0.1 ? `${(100 * value).toFixed(0)} %` : `${number(100 * value, 2)} %`;
const counted = (count, noun) => `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;

// A field with suggestions, as the ARIA pattern "editable combobox with list autocomplete" has it.
function combobox({ label, hint, placeholder, find, pick, keep = false }) {
  const listId = fresh('options');
  const list = h('ul', { id: listId, role: 'listbox', hidden: true, 'aria-label': label });
  const input = h('input', { type: 'text', role: 'combobox', autocomplete: 'off', spellcheck: false, placeholder,
    'aria-autocomplete': 'list', 'aria-expanded': 'false', 'aria-controls': listId });
  let found = [];
  let active = -1;
  const mark = (place) => {
    active = place;
    [...list.children].forEach((option, n) => option.setAttribute('aria-selected', n === active ? 'true' : 'false'));
    if (active >= 0) {
      input.setAttribute('aria-activedescendant', list.children[active].id);
      list.children[active].scrollIntoView({ block: 'nearest' });
    } else input.removeAttribute('aria-activedescendant');
  };
  const close = () => {
    list.hidden = true;
    input.setAttribute('aria-expanded', 'false');
    mark(-1);
  };
  const take = (place) => {
    const chosen = found[place];
    close();
    input.value = keep ? chosen.label : '';
    pick(chosen);
  };
  let asked = 0;
  const search = later(120, async () => {
    const turn = (asked += 1);
    try {
      const answer = await find(input.value);
      if (turn !== asked || document.activeElement !== input) return;
      found = answer;
    } catch (error) {
      return complain(error);
    }
    fill(list, found.map((one, n) => h('li', { id: `${listId}-${n}`, role: 'option', 'aria-selected': 'false',
      onpointerdown: (event) => { event.preventDefault(); take(n); } }, one.label,
    one.more ? h('small', {}, ` ${one.more}`) : null)));
    list.hidden = !found.length;
    input.setAttribute('aria-expanded', String(!list.hidden));
    mark(-1);
  });
  input.addEventListener('input', search);
  input.addEventListener('focus', () => { if (keep) { input.select(); search(); } });
  input.addEventListener('blur', close);
  input.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault();
      if (list.hidden) return search();
      const step = event.key === 'ArrowDown' ? 1 : -1;
      mark((active + step + found.length) % found.length);
    } else if (event.key === 'Enter' && !list.hidden && found.length) {
      event.preventDefault();
      take(Math.max(active, 0));
    } else if (event.key === 'Escape') close();
  });
  const field = labelled(label, input, hint);
  field.classList.add('combobox');
  field.append(list);
  return { field, input };
}

function complain(error) {
  if (error.name === 'AbortError') return;
  const place = $('problem');
  place.textContent = error.message;
  place.hidden = false;
}

function calm() {
  $('problem').hidden = true;
}
