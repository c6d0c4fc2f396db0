from vitdemo.threads import prepare_threads

# Before any test module, or plugin among them, imports torch; processes that tests start have it from this one.
prepare_threads()
