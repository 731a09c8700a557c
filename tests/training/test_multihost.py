"""One process alone, and what is refused before any is joined."""
import pytest

from rlft import main
from rlft.training import multihost


def test_a_process_alone_leads_agrees_and_tells_itself():
  assert multihost.leads()
  assert multihost.told(lambda: {'a': [1]}) == {'a': [1]}
  multihost.agree({'config': 'x'})
  multihost.meet('here')


def test_without_a_coordinator_nobody_is_joined(monkeypatch):
  monkeypatch.delenv(multihost.COORDINATOR, raising=False)
  assert multihost.join() is False


@pytest.mark.parametrize('count, index, said', [
    ('', '0', 'RLFT_NUM_PROCESSES'), ('two', '0', 'RLFT_NUM_PROCESSES'),
    ('2', '', 'RLFT_PROCESS_ID'), ('2', '2', 'count from 0'),
    ('2', '-1', 'RLFT_PROCESS_ID')])
def test_half_of_what_names_a_process_is_refused(
    monkeypatch, count, index, said):
  monkeypatch.setenv(multihost.COORDINATOR, '127.0.0.1:1')
  monkeypatch.setenv(multihost.COUNT, count)
  monkeypatch.setenv(multihost.INDEX, index)
  with pytest.raises(ValueError, match=said):
    multihost.join()


@pytest.mark.parametrize('where, said', [
    ('127.0.0.1', 'invalid literal'), ('127.0.0.1:99999', 'no port is 99999'),
    ('127.0.0.1:x', 'invalid literal'),
    ('192.0.2.1:7777', 'Cannot assign requested address')])
def test_an_address_that_cannot_be_listened_on_is_refused(
    monkeypatch, where, said):
  for name, value in ((multihost.COORDINATOR, where), (multihost.COUNT, '2'),
                      (multihost.INDEX, '0')):
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match=f'RLFT_COORDINATOR={where}.*{said}'):
    multihost.join()


def test_a_process_of_several_that_is_refused_ends_at_once(
    monkeypatch, capsys):
  codes = []
  monkeypatch.setattr(main.os, '_exit', codes.append)
  monkeypatch.setenv(multihost.COORDINATOR, '127.0.0.1:1')
  monkeypatch.delenv(multihost.COUNT, raising=False)
  main.main(['run', '--config=x.py', '--run_dir=x'])
  assert codes == [2]
  assert 'RLFT_NUM_PROCESSES' in capsys.readouterr().err


def test_the_version_of_the_code_is_that_of_its_files():
  assert len(multihost.code_version()) == 64
