// An editor for templates: a plain text field over a coloured copy of its text, with line numbers, marks of errors and
// completion. The field itself stays what it is, so keyboard, undo and screen readers work as everywhere.

const KEYWORDS = new Set(('for in endfor if elif else endif block endblock set endset macro endmacro from import extends '
  + 'include is not and or none true false with without context call endcall filter endfilter').split(' '));
const PARTS = /(\{#[\s\S]*?(?:#\}|$))|(\{%[\s\S]*?(?:%\}|$))|(\{\{[\s\S]*?(?:\}\}|$))/g;
const WORDS = /("(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)|([A-Za-z_]\w*)|([^A-Za-z_"']+)/g;

function coloured(text, variables) {
  const found = [];
  const add = (kind, part) => { if (part) found.push(kind ? h('span', { class: kind }, part) : part); };
  let start = 0;
  const front = /^---[ \t]*\n[\s\S]*?\n---[ \t]*(?:\n|$)/.exec(text);
  if (front) {
    add('front', front[0]);
    start = front[0].length;
  }
  PARTS.lastIndex = start;
  for (let part = PARTS.exec(text); part; part = PARTS.exec(text)) {
    add('', text.slice(start, part.index));
    if (part[1]) add('comment', part[1]);
    else for (const [whole, string, word] of part[0].matchAll(WORDS)) {
      add(string ? 'string' : KEYWORDS.has(word) ? 'keyword' : variables.has(word) ? 'variable' : 'tag', whole);
    }
    start = part.index + part[0].length;
    if (!part[0]) break;
  }
  add('', text.slice(start));
  return found;
}

// What stands before the caret, where a name is being written inside {{ }} or {% %}; else null.
function unfinished(text, caret) {
  const before = text.slice(0, caret);
  const open = Math.max(before.lastIndexOf('{{'), before.lastIndexOf('{%'));
  const shut = Math.max(before.lastIndexOf('}}'), before.lastIndexOf('%}'));
  if (open < 0 || shut > open) return null;
  return /(?:^|[^\w.])([A-Za-z_]?\w*)$/.exec(before)?.[1] ?? null;
}

function editor({ label, change }) {
  const id = fresh('editor');
  const problemsId = fresh('problems');
  const listId = fresh('names');
  const text = h('textarea', { id, spellcheck: false, wrap: 'off', autocapitalize: 'off', autocomplete: 'off',
    'aria-describedby': `${problemsId} ${id}-hint`, 'aria-controls': listId });
  const copy = h('pre', { 'aria-hidden': 'true', class: 'copy' });
  const lines = h('pre', { 'aria-hidden': 'true', class: 'lines' });
  const problems = h('ul', { id: problemsId, class: 'problems', 'aria-live': 'polite' });
  const list = h('ul', { id: listId, role: 'listbox', 'aria-label': 'Variables of the task', hidden: true });
  let variables = new Set();
  let wrong = new Set();
  let offered = [];
  let active = 0;

  const draw = () => {
    fill(copy, coloured(text.value, variables), '\n');
    const number = text.value.split('\n').length;
    fill(lines, Array.from({ length: number }, (_, n) => h('span', { class: wrong.has(n + 1) ? 'wrong' : '' },
      `${wrong.has(n + 1) ? '▸' : ''}${n + 1}\n`)));
    follow();
  };
  const follow = () => {
    copy.style.transform = `translate(${-text.scrollLeft}px, ${-text.scrollTop}px)`;
    lines.style.transform = `translateY(${-text.scrollTop}px)`;
  };
  const close = () => {
    list.hidden = true;
    text.removeAttribute('aria-activedescendant');
  };
  const mark = () => {
    [...list.children].forEach((one, n) => one.setAttribute('aria-selected', String(n === active)));
    text.setAttribute('aria-activedescendant', list.children[active].id);
  };
  const offer = (asked) => {
    const word = unfinished(text.value, text.selectionStart);
    offered = word === null || (!word && !asked) ? [] : [...variables].filter((one) => one.startsWith(word) && one !== word);
    if (!offered.length) return close();
    active = 0;
    fill(list, offered.map((one, n) => h('li', { id: `${listId}-${n}`, role: 'option', 'aria-selected': 'false',
      onpointerdown: (event) => { event.preventDefault(); take(n); } }, one)));
    list.hidden = false;
    mark();
  };
  const take = (place) => {
    const word = unfinished(text.value, text.selectionStart) || '';
    text.setRangeText(offered[place], text.selectionStart - word.length, text.selectionStart, 'end');
    close();
    changed();
  };
  const changed = () => {
    draw();
    change(text.value);
  };
  text.addEventListener('input', () => { changed(); offer(false); });
  text.addEventListener('scroll', follow);
  text.addEventListener('blur', close);
  text.addEventListener('keydown', (event) => {
    if (event.key === ' ' && event.ctrlKey) {
      event.preventDefault();
      return offer(true);
    }
    if (list.hidden) return undefined;
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault();
      active = (active + (event.key === 'ArrowDown' ? 1 : -1) + offered.length) % offered.length;
      mark();
    } else if (event.key === 'Enter' || event.key === 'Tab') {
      event.preventDefault();
      take(active);
    } else if (event.key === 'Escape') {
      event.stopPropagation();
      close();
    }
    return undefined;
  });
  const element = h('div', { class: 'editor' },
    h('label', { htmlFor: id }, label),
    h('div', { class: 'frame' }, h('div', { class: 'gutter' }, lines), h('div', { class: 'sheet' }, copy, text), list),
    h('small', { id: `${id}-hint` }, 'Ctrl+Space inside {{ }} or {% %} offers the variables of the task.'), problems);
  return {
    element,
    set(value, names) {
      variables = new Set(names);
      if (text.value !== value) text.value = value;
      draw();
    },
    tell(found) {
      wrong = new Set(found.map((one) => one.line));
      text.setAttribute('aria-invalid', String(found.length > 0));
      fill(problems, found.map((one) => h('li', {}, (one.line ? `Line ${one.line}: ` : '') + one.message)));
      draw();
    },
  };
}
