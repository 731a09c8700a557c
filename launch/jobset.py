"""The JobSet of a run on a TPU slice of GKE, as JSON (which is YAML, too).

python3 launch/jobset.py run|study CONFIG.py --accelerator=v5e:16x16 \\
    --run_dir=gs://BUCKET/FOLDER --image=IMAGE [--queue=...] [--spot=true]

One pod for each host. When one ends with 42 or by a signal, or its node goes
away, all start again, up to `restarts` times; any other code ends the JobSet.
"""
import json
import re
import sys

import request as asked

CONTAINER = 'rlft'
AGAIN = [42, *range(128, 256)]  # exit codes that ask to be started again
GRACE_SECONDS = 120  # to save; a Spot node gives 15 to 30 of them


def manifest(request: asked.Request) -> dict:
  """All of it, for one slice."""
  options, row = request.options, request.accelerator
  labels = {}
  if options['queue']:
    labels = {'labels': {'kueue.x-k8s.io/queue-name': options['queue']}}
  return {
      'apiVersion': 'jobset.x-k8s.io/v1alpha2',
      'kind': 'JobSet',
      'metadata': {
          'name': options['name'], **labels,
          # the hosts of one slice, and of no other
          'annotations': {'alpha.jobset.sigs.k8s.io/exclusive-topology':
                          'cloud.google.com/gke-nodepool'}},
      'spec': {
          'failurePolicy': {
              'maxRestarts': int(options['restarts']),
              'rules': [{
                  'name': 'fault',
                  'action': 'FailJobSet',
                  'onJobFailureReasons': ['PodFailurePolicy']}]},
          'replicatedJobs': [{
              'name': 'slice', 'replicas': 1, 'template': {'spec': {
                  'parallelism': row.hosts,
                  'completions': row.hosts,
                  'completionMode': 'Indexed',
                  'backoffLimit': 0,  # one pod alone cannot start again
                  'podFailurePolicy': {'rules': _rules()},
                  'template': {'spec': _pod(request)}}}}]}}


def _rules() -> list[dict]:
  """Of pods; the first that fits decides."""
  return [
      # what a pod says whose node is taken away is not its own fault
      {'action': 'Count',
       'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}]},
      {'action': 'FailJob',
       'onExitCodes': {'containerName': CONTAINER, 'operator': 'NotIn',
                       'values': AGAIN}}]


def _pod(request: asked.Request) -> dict:
  options, row = request.options, request.accelerator
  chips = {'google.com/tpu': row.chips_per_host}
  selector = {'cloud.google.com/gke-tpu-accelerator': row.family.gke_label,
              'cloud.google.com/gke-tpu-topology': row.shape}
  tolerations = [{'key': 'google.com/tpu', 'operator': 'Exists'}]
  if options['spot'] == 'true':
    selector['cloud.google.com/gke-spot'] = 'true'
    tolerations.append(
        {'key': 'cloud.google.com/gke-spot', 'operator': 'Exists'})
  account = options['service_account']
  return {
      'restartPolicy': 'Never',
      'terminationGracePeriodSeconds': GRACE_SECONDS,
      'hostNetwork': True,
      'dnsPolicy': 'ClusterFirstWithHostNet',
      **({'serviceAccountName': account} if account else {}),
      'nodeSelector': selector,
      'tolerations': tolerations,
      'containers': [{
          'name': CONTAINER,
          'image': options['image'],
          # no shell: the pod's SIGTERM is that of Python
          'command': request.command,
          'env': [{'name': key, 'value': value}
                  for key, value in row.environment.items()],
          'resources': {'requests': chips, 'limits': chips},
          'volumeMounts': [{'name': 'shm', 'mountPath': '/dev/shm'}]}],
      'volumes': [{'name': 'shm', 'emptyDir': {'medium': 'Memory'}}]}


def told(request: asked.Request) -> str:
  """The manifest as text, a list of numbers on one line."""
  return re.sub(r'\[[\d\s,]+\]', lambda found: ' '.join(found[0].split()),
                json.dumps(manifest(request), indent=2))


def main(argv: list[str]) -> int:
  """Exit code 2 and one line for what cannot be launched."""
  return asked.answer(lambda: told(asked.read('gke', argv)))


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
