"""Chat templates: text, tokens and masks as inference would have them."""
import functools
import itertools
import json
import shutil
import unicodedata

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from rlft import tokenizer
from rlft.chat import small

FAMILIES = ('llama3_chat', 'qwen2_chat')
DATE = '26 Jul 2024'
TOOL = {'type': 'function', 'function': {
    'name': 'deal', 'description': 'Deals a hand.', 'parameters': {
        'type': 'object', 'properties': {'cards': {'type': 'integer'}}}}}
CALL = {'role': 'assistant', 'tool_calls': [{
    'type': 'function',
    'function': {'name': 'deal', 'arguments': {'cards': 4}}}]}


def turns(*contents, system=None):
  """User and assistant by turns."""
  talk = [{'role': ('user', 'assistant')[i % 2], 'content': content}
          for i, content in enumerate(contents)]
  return ([{'role': 'system', 'content': system}] if system else []) + talk


CONVERSATIONS = {
    'one': (turns('24?', '1+1'), None),
    'many': (turns('24?', '1+1', 'No.', '24', 'Yes.', 'Fine: (8/3)!'), None),
    'to be continued': (turns('24?', '1+1', 'No.'), None),
    'system': (turns('24?', '1+1', system='Be short.'), None),
    'empty': (turns('', ''), None),
    'space': (turns(' 24?\n', 'a  b', '\n\n', 'c'), None),
    'tools': (turns('24?', '1+1', system='Be short.'), [TOOL]),
    'called': ([*turns('24?', system='Be short.'), CALL,
                {'role': 'tool', 'name': 'deal', 'content': '[1, 2, 3, 4]'},
                *turns('Deal.', 'It is [1, 2, 3, 4].')[1:]], [TOOL]),
    'called twice': ([*turns('24?'), CALL, {'role': 'tool', 'content': '1'},
                      {'role': 'tool', 'content': '2'}, CALL,
                      {'role': 'tool', 'content': '3'}], [TOOL])}


@functools.cache
def words(family: str) -> tokenizer.Tokenizer:
  return tokenizer.load(f'asset:{family}')


@functools.cache
def plain(family: str):
  """What a user of transformers would have."""
  import transformers
  return transformers.AutoTokenizer.from_pretrained(
      tokenizer.ASSETS / family, local_files_only=True)


def copied(folder, family='llama3_chat'):
  """A copy of an asset to spoil; hf:DIR is its name."""
  target = folder / family
  shutil.copytree(tokenizer.ASSETS / family, target)
  return target


def put(path, **fields):
  """Sets fields of a JSON file; None takes one out."""
  tree = json.loads(path.read_text()) if path.exists() else {}
  tree |= fields
  path.write_text(json.dumps(
      {k: v for k, v in tree.items() if v is not None}))


def edit(path, *pairs):
  text = path.read_text()
  for old, new in pairs:
    assert old in text
    text = text.replace(old, new)
  path.write_text(text)


def joined(lists):
  return list(itertools.chain.from_iterable(lists))


def loaded(folder, **variables):
  return tokenizer.load(f'hf:{folder}', **variables)


def refused(folder, match, **variables):
  with pytest.raises(ValueError, match=match) as caught:
    loaded(folder, **variables)
  assert '\n' not in str(caught.value)


# The text and the tokens.


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('name', CONVERSATIONS)
def test_a_conversation_is_what_transformers_writes(family, name):
  messages, tools = CONVERSATIONS[name]
  write = functools.partial(
      plain(family).apply_chat_template, messages, tools=tools,
      date_string=DATE)
  found = words(family).render(messages, tools)
  assert found.text == write(tokenize=False)
  assert found.tokens.tolist() == write(return_dict=False)
  assert found.mask.any() and not found.mask.all()
  assert found.tokens.shape == found.mask.shape


@pytest.mark.parametrize('family', FAMILIES)
def test_an_episode_is_the_same_conversation(family):
  """opening, completion, between, completion: nothing else."""
  chat = words(family)
  said = ('24?', '1+1', 'You failed.', '{"formula": "24"}', 'Again.', '3*8')
  tokens = [*chat.opening(said[0]), *chat.completion(said[1]),
            *chat.between(said[2]), *chat.completion(said[3]),
            *chat.between(said[4]), *chat.completion(said[5])]
  whole = chat.render(turns(*said)).tokens.tolist()
  assert whole[:len(tokens)] == tokens
  assert whole[len(tokens):] == (  # Qwen's turn ends with a newline
      chat.encode('\n') if family == 'qwen2_chat' else [])


@pytest.mark.parametrize('family, texts', [
    ('llama3_chat', [
        '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n'
        'Knowledge until: December 2023\nToday: 26 Jul 2024\n\n'
        'Be short.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n'
        '24?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
        '1+1<|eot_id|>',
        '<|start_header_id|>user<|end_header_id|>\n\n'
        'No.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n',
        '3*8<|eot_id|>', '']),
    ('qwen2_chat', [
        '<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n24?'
        '<|im_end|>\n<|im_start|>assistant\n',
        '1+1<|im_end|>',
        '\n<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\n',
        '3*8<|im_end|>', '\n'])])
def test_tokens_and_mask_by_hand(family, texts):
  """Every other piece is the assistant's; each is tokenised by itself."""
  found = words(family).render(
      turns('24?', '1+1', 'No.', '3*8', system='Be short.'))
  assert found.text == ''.join(texts)
  pieces = [words(family).encode(text) for text in texts]
  assert found.tokens.tolist() == joined(pieces)
  assert found.mask.tolist() == joined(
      [bool(i % 2)] * len(piece) for i, piece in enumerate(pieces))


def test_a_call_of_a_tool_counts_and_its_result_does_not():
  messages, tools = CONVERSATIONS['called']
  for family, calls in (
      ('llama3_chat', '{"name": "deal", "parameters": {"cards": 4}}<|eot_id|>'),
      ('qwen2_chat', '<tool_call>\n{"name": "deal", "arguments": {"cards": 4}}'
       '\n</tool_call><|im_end|>')):
    chat = words(family)
    found = chat.render(messages, tools)
    answer = chat.completion('It is [1, 2, 3, 4].')
    assert found.tokens[found.mask].tolist() == chat.encode(calls) + answer


def test_a_turn_may_end_with_another_token(tmp_path):
  """Llama's call of a built-in tool expects its result: <|eom_id|>."""
  chat = loaded(copied(tmp_path), builtin_tools=['deal'])
  found = chat.render([*turns('24?'), CALL])
  assert found.tokens[found.mask].tolist() == chat.encode(
      '<|python_tag|>deal.call(cards=4)<|eom_id|>')


def test_pieces_do_not_merge_over_what_is_sampled():
  """A newline of the header and one of the completion are two tokens."""
  chat = words('qwen2_chat')
  found = chat.render(turns('24?', '\n{'))
  begin = found.mask.argmax()
  assert found.tokens[begin - 1] == found.tokens[begin] == chat.encode('\n')[0]
  merged = plain('qwen2_chat').apply_chat_template(
      turns('24?', '\n{'), return_dict=False)
  assert len(merged) == len(found.tokens) - 1


def test_an_end_inside_a_completion_is_not_its_end():
  chat = words('llama3_chat')
  found = chat.render(turns('24?', '1<|eot_id|>2<|eom_id|>3'))
  assert found.tokens[found.mask].tolist() == chat.encode(
      '1<|eot_id|>2<|eom_id|>3<|eot_id|>')


CONTENT = strategies.text(strategies.characters(
    exclude_categories=['Cs'], exclude_characters='<'), max_size=30)


@pytest.mark.parametrize('family', FAMILIES)
@hypothesis.given(said=strategies.lists(CONTENT, min_size=2, max_size=6))
def test_any_content(family, said):
  chat, messages = words(family), turns(*said)
  found = chat.render(messages)
  assert found.text == plain(family).apply_chat_template(
      messages, tokenize=False, date_string=DATE)
  kept = [s.strip() if family == 'llama3_chat' else s for s in said[1::2]]
  ours = [[*chat.encode(s), chat.end] for s in kept]
  assert found.tokens[found.mask].tolist() == joined(ours)
  assert [chat.completion(s) for s in said[1::2]] == ours
  form = 'NFC' if family == 'qwen2_chat' else None
  for text, tokens in zip(kept, ours, strict=True):
    text = unicodedata.normalize(form, text) if form else text
    assert chat.decode(tokens) == text


def test_the_begin_token_is_the_templates_alone():
  chat = words('llama3_chat')
  bos = plain('llama3_chat').bos_token_id
  assert chat.bos is None
  assert chat.opening('24?').count(bos) == 1 and bos not in chat.encode('24?')
  assert plain('llama3_chat').encode('24?')[0] == bos  # as it would be added


def test_decoding_keeps_text_and_drops_ends():
  chat = words('qwen2_chat')
  assert chat.decode(chat.completion(' a , b . \n')) == ' a , b . \n'
  assert chat.decode([chat.end, *chat.stops]) == ''
  assert '<tool_call>' in chat.decode(chat.encode('<tool_call>'))
  assert chat.unknown('naïve 数字') == []


def test_an_end_that_is_no_special_token_is_dropped_as_well(tmp_path):
  folder = copied(tmp_path, 'qwen2_chat')
  tree = json.loads((folder / 'tokenizer.json').read_text())
  for token in tree['added_tokens']:
    token['special'] = token['content'] == '<|im_start|>'
  (folder / 'tokenizer.json').write_text(json.dumps(tree))
  put(folder / 'tokenizer_config.json', eos_token=None, pad_token=None)
  chat = loaded(folder)
  assert chat.decode(chat.completion('3*8')) == '3*8'
  assert chat.decode(chat.encode('<tool_call>')) == '<tool_call>'


# What the template is told.


def test_today_is_fixed(tmp_path):
  folder = copied(tmp_path)
  today = lambda chat: 'Today: {}\n'.format(
      chat.render(turns('a', 'b')).text.split('Today: ')[1].split('\n')[0])
  assert today(loaded(folder)) == f'Today: {DATE}\n'
  assert today(loaded(folder, date_string='01 Feb 2025')) == (
      'Today: 01 Feb 2025\n')
  edit(folder / 'chat_template.jinja', ('date_string', 'day'))
  refused(folder, r'asks the clock \(strftime_now\) and reads no date_string')


@pytest.mark.parametrize('variables, match', [
    (dict(date_string='2024-07-26'), "date_string is .*: write a day as '26 J"),
    (dict(date_string=3), r'config\.chat\.date_string is 3'),
    (dict(thinking=False), r'config\.chat\.thinking: .*chat_template\.jinja '
     'reads no such'),
    (dict(bos_token='<s>'), r'config\.chat\.bos_token follows from')])
def test_a_variable_that_makes_no_sense_is_refused(variables, match, tmp_path):
  refused(copied(tmp_path), match, **variables)


def test_a_date_for_a_template_without_one_is_refused(tmp_path):
  refused(copied(tmp_path, 'qwen2_chat'), 'reads no such variable',
          date_string=DATE)


def test_words_have_no_template():
  with pytest.raises(ValueError, match='nothing reads the section chat'):
    tokenizer.load('asset:points24', date_string=DATE)


# Templates whose masks would be wrong.


HEADER = "'<|im_start|>' + message['role']"
PLAIN = "{{- '\\n' + message['content'] -}}"


@pytest.mark.parametrize('pairs, match', [
    ([(PLAIN, '')], "does not go on .* with an assistant's content"),
    ([("if add_generation_prompt", 'if false')],
     'does not read add_generation_prompt'),
    ([("'<|im_start|>assistant\\n'", "'<|im_start|>helper\\n'")],
     'does not go on from its generation prompt'),
    ([("    {{- '<|im_end|>\\n' -}}\n  {%- endif -%}\n{%- endfor", "    {{- "
       "'\\n' -}}\n  {%- endif -%}\n{%- endfor")],
     r"closes an assistant's turn with '\\n': no token"),
    ([("{{- '<|im_start|>system\\n' -}}", "{{- raise_exception('no') -}}")],
     r'chat_template\.jinja refuses the messages with roles user: no'),
    ([('{%- for message', '{%- for')], 'refuses the messages')])
def test_a_template_that_hides_completions_is_refused(tmp_path, pairs, match):
  folder = copied(tmp_path, 'qwen2_chat')
  edit(folder / 'chat_template.jinja', *pairs)
  refused(folder, match)


REWRITING = (PLAIN, """{{- '\\n' -}}
    {%- if message['role'] == 'assistant' and not loop.last -%}
      {{- message['content'].split('</think>')[-1] -}}
    {%- else -%}{{- message['content'] -}}{%- endif -%}""")


def test_a_template_that_rewrites_is_refused_where_it_does(tmp_path):
  folder = copied(tmp_path, 'qwen2_chat')
  edit(folder / 'chat_template.jinja', REWRITING)
  chat = loaded(folder)
  thought = '<think>so</think>24'
  assert chat.render(turns('a', thought)).mask.any()
  assert chat.render(turns('a', '24', 'b', thought)).mask.any()
  with pytest.raises(ValueError, match=(
      r'chat_template\.jinja rewrites message 1 once others follow')):
    chat.render(turns('a', thought, 'b', '24'))
  # In an episode the thought stays, token by token.
  assert chat.completion(thought) == [*chat.encode(thought), chat.end]
  assert chat.between('b') == words('qwen2_chat').between('b')


def test_a_template_that_looks_ahead_is_refused(tmp_path):
  """The prompt changes with the completion."""
  folder = copied(tmp_path, 'qwen2_chat')
  edit(folder / 'chat_template.jinja', (
      "<|im_start|>system\\n'", "<|im_start|>system\\n' + '!' * ("
      "messages | selectattr('content', 'equalto', 'x') | list | length)"))
  with pytest.raises(ValueError, match='before message 1 changes with it'):
    loaded(folder).render(turns('a', 'x'))


@pytest.mark.parametrize('messages, match', [
    (turns('24?'), 'the mask is empty under the chat template of'),
    (turns('24?', 'a')[1:], 'refuses the messages with roles none')])
def test_a_conversation_without_a_completion_is_refused(messages, match):
  with pytest.raises(ValueError, match=match):
    words('qwen2_chat').render(messages)


# Special tokens.


def id_of(folder, token):
  import tokenizers
  return tokenizers.Tokenizer.from_file(
      str(folder / 'tokenizer.json')).token_to_id(token)


@pytest.mark.parametrize('family, pad', [
    ('llama3_chat', '<|finetune_right_pad_id|>'),  # it has none of its own
    ('qwen2_chat', '<|fim_pad|>')])  # its own is a stop
def test_the_pad_token_is_nothing_else(family, pad):
  chat = words(family)
  assert chat.pad == id_of(tokenizer.ASSETS / family, pad)
  for messages, tools in CONVERSATIONS.values():
    assert chat.pad not in chat.render(messages, tools).tokens
  assert chat.pad not in (*chat.stops, chat.end, *chat.cut)


@pytest.mark.parametrize('pad, gone, taken', [
    ('<|reserved_special_token_0|>', [], '<|reserved_special_token_0|>'),
    ('<|eot_id|>', [], '<|finetune_right_pad_id|>'),  # a stop
    ('<|begin_of_text|>', [], '<|finetune_right_pad_id|>'),
    ('<|python_tag|>', [], '<|finetune_right_pad_id|>'),  # the template's
    (None, ['<|finetune_right_pad_id|>'], '<|reserved_special_token_0|>')])
def test_a_pad_token_is_chosen(tmp_path, pad, gone, taken):
  folder = copied(tmp_path)
  for token in gone:
    edit(folder / 'tokenizer.json', (token, '<|header_id|>'))
  put(folder / 'tokenizer_config.json', pad_token=pad)
  assert loaded(folder).pad == id_of(folder, taken)


def without_spare(tmp_path):
  folder = copied(tmp_path)
  edit(folder / 'tokenizer.json', ('<|finetune_right_pad_id|>', '<|one|>'),
       ('<|reserved_special_token_0|>', '<|two|>'))
  return folder


def test_a_row_of_the_embedding_without_a_token_is_a_pad(tmp_path):
  folder = without_spare(tmp_path)
  size = words('llama3_chat').vocabulary
  put(folder / 'config.json', model_type='llama', vocab_size=size + 7)
  chat = loaded(folder)
  assert (chat.pad, chat.vocabulary) == (size, size + 7)
  assert chat.decode([chat.pad, *chat.encode('a')]) == 'a'


def test_no_pad_token_is_told(tmp_path):
  refused(without_spare(tmp_path), r'tokenizer_config\.json: pad_token is None')


def test_a_pad_beyond_the_logits_is_none(tmp_path):
  """A multimodal model has embeddings without a logit."""
  folder = copied(tmp_path)
  tree = json.loads((folder / 'tokenizer.json').read_text())
  size = words('llama3_chat').vocabulary
  tree['added_tokens'].append({
      **tree['added_tokens'][0], 'id': size, 'content': '<|image|>'})
  (folder / 'tokenizer.json').write_text(json.dumps(tree))
  put(folder / 'tokenizer_config.json', pad_token='<|image|>')
  put(folder / 'config.json', model_type='mllama',
      text_config={'vocab_size': size})
  chat = loaded(folder)
  assert chat.vocabulary == size and chat.pad == words('llama3_chat').pad
  put(folder / 'config.json', model_type='llama')
  refused(folder, rf'config\.json: vocab_size is {size}, but .* token {size}')


@pytest.mark.parametrize('about, size', [
    (dict(model_type='qwen2', vocab_size=640), 640),
    (dict(model_type='mllama', text_config=dict(vocab_size=640)), 640),
    (None, 582)])
def test_the_vocabulary_is_the_models(tmp_path, about, size):
  folder = copied(tmp_path, 'qwen2_chat')
  if about:
    put(folder / 'config.json', **about)
  assert loaded(folder).vocabulary == size


@pytest.mark.parametrize('about, match', [
    (dict(vocab_size='640'), r"config\.json: vocab_size is '640'"),
    (dict(vocab_size=0), 'vocab_size is 0'),
    (dict(model_type='x'), r'config\.json: vocab_size is None'),
    (dict(text_config={}), r'text_config\.vocab_size is None'),
    (dict(vocab_size=100), r'config\.json: vocab_size is 100, but')])
def test_a_config_without_a_size_is_refused(tmp_path, about, match):
  folder = copied(tmp_path)
  put(folder / 'config.json', **about)
  refused(folder, match)


@pytest.mark.parametrize('listed, beside, stops', [
    ([585, 590, 591], None, (585, 590, 591)),
    (585, None, (585, 591)),  # the template's own end is one as well
    (None, 590, (590, 591)),
    (None, None, (591,))])
def test_stops_are_the_models_and_the_templates(
    tmp_path, listed, beside, stops):
  folder = copied(tmp_path)
  put(folder / 'generation_config.json', eos_token_id=listed)
  put(folder / 'config.json', vocab_size=600, eos_token_id=beside)
  chat = loaded(folder)
  assert (chat.stops, chat.end, chat.cut) == (stops, 591, (591,))


@pytest.mark.parametrize('listed, match', [
    ('</s>', r"generation_config\.json: eos_token_id is '</s>'"),
    ([1, True], 'eos_token_id is'), ([-1], 'eos_token_id is'),
    ([9999], r'generation_config\.json: eos_token_id 9999 is none of the 593')])
def test_a_stop_that_is_no_token_is_refused(tmp_path, listed, match):
  folder = copied(tmp_path)
  put(folder / 'generation_config.json', eos_token_id=listed)
  refused(folder, match)


# Files.


def test_the_shipped_files_are_what_the_module_writes(tmp_path):
  small.llama3(tmp_path / 'llama3_chat')
  small.qwen2(tmp_path / 'qwen2_chat')
  for family in FAMILIES:
    shelf = tokenizer.ASSETS / family
    assert sum(path.stat().st_size for path in shelf.iterdir()) < 60_000
    for path in shelf.glob('*.json'):
      assert path.read_bytes() == (tmp_path / family / path.name).read_bytes()


@pytest.mark.parametrize('family', FAMILIES)
def test_where_the_template_stands_does_not_matter(tmp_path, family):
  folder = copied(tmp_path, family)
  path = folder / 'chat_template.jinja'
  source = path.read_text()
  path.unlink()
  put(folder / 'tokenizer_config.json', chat_template=source)
  messages, tools = CONVERSATIONS['called']
  one, other = (chat.render(messages, tools) for chat in (
      loaded(folder), words(family)))
  assert one.text == other.text
  np.testing.assert_array_equal(one.tokens, other.tokens)
  put(folder / 'tokenizer_config.json', chat_template=[
      {'name': 'default', 'template': source},
      {'name': 'tool_use', 'template': 'T' + source}])
  assert loaded(folder).render(messages, tools).text == 'T' + one.text
  assert loaded(folder).render(turns('a', 'b')).text[0] == '<'


def test_the_digest_is_of_what_decides_the_tokens(tmp_path):
  folder = copied(tmp_path)
  put(folder / 'config.json', vocab_size=600)
  digest = lambda: loaded(folder).digest
  first = digest()
  assert first == digest() != words('llama3_chat').digest
  put(folder / 'generation_config.json', temperature=0.1)
  put(folder / 'config.json', torch_dtype='float32')
  (folder / 'README.md').touch()
  assert digest() == first
  moved = shutil.copytree(folder, tmp_path / 'elsewhere')
  assert loaded(moved).digest == first
  seen = {first}
  for change in (
      lambda: put(folder / 'generation_config.json', eos_token_id=[585]),
      lambda: put(folder / 'config.json', vocab_size=608),
      lambda: put(folder / 'tokenizer_config.json', note='new'),
      lambda: edit(folder / 'chat_template.jinja', ('one of', 'any of')),
      lambda: edit(folder / 'tokenizer.json', ('python_tag', 'py_tag'))):
    change()
    seen.add(digest())
  assert len(seen) == 6


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
  refused(tmp_path / 'none', r'no tokenizer at .*none/tokenizer\.json')
  refused(tmp_path, r'no tokenizer at .*tokenizer\.json')


def test_a_tokenizer_without_a_template_is_named(tmp_path):
  folder = copied(tmp_path)
  (folder / 'chat_template.jinja').unlink()
  refused(folder, r'tokenizer_config\.json has no chat_template')


@pytest.mark.parametrize('name', ['tokenizer_config.json', 'config.json'])
def test_code_of_its_own_is_not_run(tmp_path, name):
  folder = copied(tmp_path)
  (folder / 'evil.py').write_text('raise SystemExit("run")')
  put(folder / name, auto_map={'AutoTokenizer': ['evil.Tokenizer', None]})
  refused(folder, r'tokenizer_config\.json: auto_map names code of its own')


@pytest.mark.parametrize('name, content, match', [
    ('tokenizer_config.json', '{', r'tokenizer_config\.json is no JSON'),
    ('tokenizer_config.json', '[]', r'tokenizer_config\.json is no JSON obj'),
    ('generation_config.json', '{', r'generation_config\.json is no JSON'),
    ('config.json', '3', r'/config\.json is no JSON object'),
    ('tokenizer.json', '{}', r'tokenizer\.json is damaged')])
def test_a_damaged_file_is_named(tmp_path, name, content, match):
  folder = copied(tmp_path)
  (folder / name).write_text(content)
  refused(folder, match)


def test_what_transformers_does_not_load_is_told_as_such(tmp_path):
  folder = copied(tmp_path)
  put(folder / 'tokenizer_config.json', tokenizer_class='NoSuchTokenizer',
      added_tokens_decoder={'0': 3})
  refused(folder, r'transformers does not load its tokenizer: ')


def test_a_class_that_reads_the_file_otherwise_is_refused(tmp_path):
  """Llama 3 under the class of Qwen would split digits one by one."""
  folder = copied(tmp_path)
  put(folder / 'tokenizer_config.json', tokenizer_class='Qwen2Tokenizer')
  refused(folder, "tokenizer_class 'Qwen2Tokenizer' splits text otherwise")
