from upstairs.cli.app import main

main()
