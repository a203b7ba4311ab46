"""From files to tasks. This module lists the kinds of data by name and imports nothing."""

KINDS: dict[str, str] = {
    "glyphs": "characters of many scripts drawn from installed fonts; no download, split by script",
    "folder": "class/picture or group/class/picture, optionally below train, val and test folders; "
    "or pictures and a table of paths and labels, or train.csv, val.csv and test.csv (mini-ImageNet)",
    "zip": "the same in a zip, read without unpacking, or in a tar",
    "npy": "the same of .npy arrays; or a .npz or .pkl of inputs and labels (x and y; mini-ImageNet)",
    "omniglot": "the folder with images_background.zip, images_evaluation.zip and splits/vinyals, or one zip alone",
    "cifar": "the folder with sheets/ and splits/: --split cifar-fs or fc100",
    "table": "texts: .csv, .tsv, .json, .jsonl, .xlsx or .parquet, with texts and labels (--columns TEXT,LABEL)",
    "texts": "a folder with a folder of .txt files for each class, or CLINC150's with data_full.json",
    "languages": "texts: which language is it? names of things in 140 languages (needs Babel, extra [text])",
    "rows": "regression: a table with a column that names the task (site, city, ...) and columns of numbers (--target)",
    "sounds": "recordings as class/file, in a folder or a zip, or named by a table of labels (needs extra [audio])",
    "sinusoid": "regression: a sinusoid for each task (Finn 2017)",
    "gp": "regression: a sample of a Gaussian process for each task, whose best possible prediction is known",
    "arrays": "in Python: Source.from_arrays(x, y)",
}
BUILT_IN = ("glyphs", "languages", "sinusoid", "gp")  # names; any other data is a path
