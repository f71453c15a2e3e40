import sys
import time
from pathlib import Path

import click
import yaml


@click.command()
@click.option("-C", "--config", "path")
def run(path):
    from relayproxy.catalogue import Catalogue
    from relayproxy.config.models import Config
    from relayproxy.supervisor import Log, Plan, Supervisor

    def load():
        c = Config.model_validate(yaml.safe_load(open(path)))
        cat = Catalogue(map(Path, c.plugin_folders))
        ch = []
        for e in c.pipeline:
            n, o = (e.name, e.options)
            ch.append((e, cat[n], cat[n].settings.model_validate(o)))
        return Plan(c, ch, Path(), path)

    log = Log(lambda l: sys.stderr.write(l), time.time)
    sys.exit(Supervisor(load, log, control=None).run(lambda g: log.info("ready")))
