from egoexo_xseg.cli.app import main

main()
