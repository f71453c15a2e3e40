import click, sys, time, yaml
from pathlib import Path


@click.command()
@click.option("-C", "--config", "path")
def run(path):
    from relayproxy.config.models import Config
    from relayproxy.supervisor import Plan, Supervisor, Log
    from relayproxy.catalogue import Catalogue

    def load():
        c = Config.model_validate(yaml.safe_load(open(path)))
        cat = Catalogue(map(Path, c.plugin_folders))
        ch = []
        for e in c.pipeline:
            n, o = (e.name, e.options)
            ch.append((e, cat[n], cat[n].settings.model_validate(o)))
        return Plan(c, ch, Path("."), path)

    log = Log(lambda l: sys.stderr.write(l), time.time)
    sys.exit(Supervisor(load, log, control=None).run(lambda g: log.info("ready")))
