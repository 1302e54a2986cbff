"""How the bundled miniature is made: dataset, autoencoder, tokenizer, base, judges.

Scripts that are run rarely: ``python -m emoji.make --config emoji/cpu.yaml`` runs them all,
in order, skipping what is there already. The library itself (`hypersd`) never imports this.
"""
